"""What feeding a training step costs: samples per CPU-second, one thread, medians of rounds.

A sample is a latent of SDXL's size (4 x 128 x 128) and the tokens of a prompt of tags, drawn anew
at every visit, for two text encoders of three windows. The same pictures, visits and prompts:

    ours         training.order, store.latent_reader (bf16, shuffle-zstd; checked before),
                 curation.tag_prompts, models.tag_tokens, packed as batches
    ours_first   the same, with the checksum of every latent: the first epoch of a run that did not
                 check its cache
    npz          one compressed fp16 .npz a picture, the same prompts, each through both tokenizers
                 (transformers' fast CLIPTokenizer), as bigASP and kohya's scripts do
    npz_stored   the same without compression

Run: OMP_NUM_THREADS=1 python benchmarks/latent_loader.py [--rounds 9] [--pictures 1024]
     [--index-rows 1000000: memory and time of the index, too]
With TASTEMAKER_ASSETS the vocabulary is CLIP's own, else a small one trained on the tags.
"""

import argparse
import gc
import gzip
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tastemaker.curation.aliases import NO_ALIASES
from tastemaker.curation.prompts import TagPrompt, prompt_text
from tastemaker.curation.tag_prompts import ScoreTags
from tastemaker.models.tag_tokens import TagTokens, pack_for_encoders
from tastemaker.models.text import token_windows
from tastemaker.models.tokenizer import (
    clip_tokenizers_from_merges,
    load_tokenizer,
    train_tokenizer,
)
from tastemaker.records.draws import Draw
from tastemaker.records.image import ImageRecord
from tastemaker.records.run import Visit
from tastemaker.records.size import ImageSizes, Size
from tastemaker.store.latent_columns import LatentColumns
from tastemaker.store.latent_formats import LatentFormat
from tastemaker.store.latent_index import IndexRow, read_index, write_index
from tastemaker.store.latent_reader import LatentReader
from tastemaker.store.latents import LatentCache, LatentEntry
from tastemaker.training.order import DataOrder

BUCKET, SHARD, BATCH, WINDOWS = Size(1024, 1024), 256, 16, 3
TAGS, WORDS = 8_000, 5_000
RULES = TagPrompt(scores=ScoreTags())
"""bigASP's: 32 tags on average with a deviation of 19.8, score tags, 10 % empty."""


def latent(seed: int) -> Tensor:
    """Noise with neighbours alike as in a real latent (correlation 0.5), unit deviation."""
    noise = torch.randn(1, 4, 130, 130, generator=torch.Generator().manual_seed(seed))
    kernel = torch.tensor([0.27, 1.0, 0.27])
    weight = (kernel[:, None] * kernel[None, :]).expand(4, 1, 3, 3)
    smooth = torch.nn.functional.conv2d(noise, weight, groups=4)[0]
    return smooth / smooth.std()


def words(generator: random.Random) -> list[str]:
    """Made-up words of two to four syllables."""
    syllables = [c + v for c in "bcdfghjklmnprstvwz" for v in "aeiou"]
    return ["".join(generator.choices(syllables, k=generator.randint(2, 4))) for _ in range(WORDS)]


def records(count: int) -> dict[str, ImageRecord]:
    """Pictures of 10 to 80 tags; a tag has one to three words, and frequent ones are frequent."""
    generator = random.Random(0)
    known = words(generator)
    tags = ["_".join(generator.choices(known, k=generator.randint(1, 3))) for _ in range(TAGS)]
    tags = [f"{tag}_({known[n % WORDS]})" if n % 10 == 0 else tag for n, tag in enumerate(tags)]
    often = [1 / (n + 10) for n in range(TAGS)]
    found = {}
    for n in range(count):
        own = tuple(dict.fromkeys(generator.choices(tags, often, k=generator.randint(10, 80))))
        score = (("score", str(generator.randint(1, 9))),)
        found[f"{n:064x}"] = ImageRecord(
            f"{n:064x}", f"{n}", "made", f"{n}", BUCKET, tags=own, attributes=score
        )
    return found


def tokenizers(folder: Path, pictures: dict[str, ImageRecord]) -> tuple[tuple[Any, Any], str]:
    """SDXL's two, and whose vocabulary it is."""
    assets = Path(os.environ.get("TASTEMAKER_ASSETS", "/nowhere"))
    real = next(assets.rglob("bpe_simple_vocab_16e6.txt.gz"), None)
    if real is not None:
        clip_tokenizers_from_merges(gzip.decompress(real.read_bytes()).decode(), folder)
    else:
        train_tokenizer((", ".join(r.tags) for r in pictures.values()), 5_000, 77, folder)
    pair = load_tokenizer(folder / "tokenizer"), load_tokenizer(folder / "tokenizer_2")
    return pair, "CLIP's 49,408 tokens" if real is not None else "trained on the tags"


def write_cache(folder: Path, ids: Sequence[str]) -> float:
    """Shards as the cache step writes them; bytes a latent."""
    cache, form = LatentCache(folder), LatentFormat("vae")
    for start in range(0, len(ids), SHARD):
        some = [
            LatentEntry(i, i, latent(start + n), ImageSizes(Size(1200, 1100), 0, 0, BUCKET))
            for n, i in enumerate(ids[start : start + SHARD])
        ]
        cache.write_shard(BUCKET, some, form)
    return sum(f.stat().st_size for f in (folder / "shards").iterdir()) / len(ids)


def write_npz(folder: Path, ids: Sequence[str], save: Callable[..., None]) -> float:
    """A file a picture; bytes a latent."""
    folder.mkdir()
    for n, picture in enumerate(ids):
        sizes = np.array([1200, 1100, 0, 0])
        save(folder / f"{picture}.npz", latent=latent(n).half().numpy(), sizes=sizes)
    return sum(f.stat().st_size for f in folder.iterdir()) / len(ids)


class Chain:
    """Everything that both ways need."""

    def __init__(self, folder: Path, count: int) -> None:
        self.records = records(count)
        ids = list(self.records)
        self.pair, self.vocabulary = tokenizers(folder / "tokenizers", self.records)
        self.bytes = {"ours": write_cache(folder / "cache", ids)}
        for name, save in (("npz", np.savez_compressed), ("npz_stored", np.savez)):
            self.bytes[name] = write_npz(folder / name, ids, save)
        self.folder = folder
        self.order = DataOrder({BUCKET: ids}, BATCH, seed=0)
        self.tokens = TagTokens(self.pair[0])
        self.memory_seconds = seconds(self.remember)
        self.columns = LatentColumns(folder / "cache")
        self.number_of = dict(zip(ids, self.columns.find(ids).tolist(), strict=True))
        self.reader = LatentReader(self.columns, check=False)
        self.out = torch.empty(BATCH, 4, 128, 128, dtype=torch.bfloat16)

    def remember(self) -> None:
        """Ask the tokenizer about every tag beforehand, as a run does in its first minutes."""
        tags = {tag for record in self.records.values() for tag in record.tags}
        spellings = [s for tag in sorted(tags) for s in (tag, tag.replace("_", " "))]
        self.tokens.ids([f"{one}, {one}" for one in spellings])

    def prompts(self, visits: Sequence[Visit]) -> list[str]:
        """The texts of some visits."""
        return [
            prompt_text(
                self.records[v.sample_id],
                RULES,
                Draw(0, "prompt", v.sample_id, v.visit),
                NO_ALIASES,
            )
            for v in visits
        ]

    def ours(self, step: int, reader: LatentReader | None = None) -> tuple[Tensor, ...]:
        """One batch."""
        visits = self.order.step(step)
        numbers = [self.number_of[v.sample_id] for v in visits]
        batch = (reader or self.reader).read(numbers, (self.out[: len(visits)], None))
        ids = self.tokens.ids(self.prompts(visits))
        return batch.mean, *pack_for_encoders(ids, WINDOWS, self.pair)

    def npz(self, step: int, name: str = "npz") -> tuple[Tensor, ...]:
        """One batch, a file and two tokenizer calls a sample."""
        visits = self.order.step(step)
        latents, first, second = [], [], []
        for visit, text in zip(visits, self.prompts(visits), strict=True):
            with np.load(self.folder / name / f"{visit.sample_id}.npz") as file:
                latents.append(torch.from_numpy(file["latent"]))
                _ = file["sizes"].tolist()
            first.append(token_windows(self.pair[0], [text], WINDOWS))
            second.append(token_windows(self.pair[1], [text], WINDOWS))
        return torch.stack(latents), torch.cat(first), torch.cat(second)

    def parts(self, steps: Sequence[int]) -> dict[str, float]:
        """Microseconds a sample of each part of ours."""
        visits = [self.order.step(k) for k in steps]
        count = sum(map(len, visits))
        texts = [self.prompts(some) for some in visits]
        ids = [self.tokens.ids(some) for some in texts]
        numbers = [[self.number_of[v.sample_id] for v in some] for some in visits]

        def read(some: list[int]) -> None:
            self.reader.read(some, (self.out[: len(some)], None))

        work: dict[str, tuple[Callable[[Any], object], Sequence[Any]]] = {
            "order": (self.order.step, steps),
            "read and decode": (read, numbers),
            "prompt": (self.prompts, visits),
            "token ids": (self.tokens.ids, texts),
            "pack": (lambda some: pack_for_encoders(some, WINDOWS, self.pair), ids),
        }
        return {
            name: round(1e6 * seconds(lambda f=f, a=a: [f(one) for one in a]) / count, 1)
            for name, (f, a) in work.items()
        }


def seconds(work: Callable[[], object]) -> float:
    """CPU time of the process, not of the wall clock."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def rounds_of(chain: Chain, rounds: int, steps: int) -> dict[str, Any]:
    """Samples a CPU-second of each way, and ratios of the same round."""
    few = max(1, steps // 8)  # the slow ways need fewer

    def ours_first(start: int) -> int:
        reader = LatentReader(chain.columns)  # checks all anew
        return sum(len(chain.ours(start + k, reader)[0]) for k in range(steps))

    ways: dict[str, Callable[[int], int]] = {
        "ours": lambda start: sum(len(chain.ours(start + k)[0]) for k in range(steps)),
        "ours_first": ours_first,
        "npz": lambda start: sum(len(chain.npz(start + k)[0]) for k in range(few)),
        "npz_stored": lambda start: sum(
            len(chain.npz(start + k, "npz_stored")[0]) for k in range(few)
        ),
    }
    same(chain)
    for work in ways.values():
        work(0)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        # A new order in every round, since each way leaves the caches in its own state.
        for name in random.Random(number).sample(sorted(ways), len(ways)):
            counts: list[int] = []
            spent = seconds(lambda n=name, c=counts, at=number * steps: c.append(ways[n](at)))
            found[name].append(counts[0] / spent)
    ratios = {
        f"ours_over_{name}": summary(
            [a / b for a, b in zip(found["ours"], found[name], strict=True)]
        )
        for name in ("npz", "npz_stored")
    }
    rates = {name: summary(rates, 0) for name, rates in found.items()}
    return {"samples_a_cpu_second": rates, **ratios}


def same(chain: Chain) -> None:
    """Both ways give the same tokens, and the same latents but for the dtype."""
    for step in range(8):
        (a, *tokens), (b, *others) = chain.ours(step), chain.npz(step)
        assert all(torch.equal(x, y) for x, y in zip(tokens, others, strict=True))
        torch.testing.assert_close(a.float(), b.float(), rtol=5e-3, atol=1e-3)


def index_figures(folder: Path, rows: int) -> dict[str, float]:
    """Memory and time of an index of so many latents: as columns, and as rows."""
    form = LatentFormat("v" * 64)
    for start in range(0, rows, SHARD):
        name = f"{BUCKET}-{start:016x}"
        write_index(
            folder / "index" / f"{name}.parquet",
            [
                IndexRow(
                    key=f"{n * 7919 + 1:064x}", id=f"{n:064x}", shard=name, row=n - start,
                    sizes=ImageSizes(Size(1200 + n % 300, 1100), n % 7, 0, BUCKET),
                    shape=(4, 128, 128), format=form, has_logvar=False, loader="loader",
                    source=f"folder/{n:08}.jpg", checksum=f"{n:032x}",
                )
                for n in range(start, min(start + SHARD, rows))
            ],
        )  # fmt: skip
    gc.collect()
    begin, started = resident(), time.process_time()
    columns = LatentColumns(folder)
    spent, used = time.process_time() - started, resident() - begin
    wanted = [f"{n * 7919 + 1:064x}" for n in range(0, rows, 10)]
    looked = seconds(lambda: columns.find(wanted))
    made = seconds(lambda: [columns.row(n) for n in range(0, rows, 100)])
    started = time.process_time()
    every = [row for f in sorted((folder / "index").iterdir()) for row in read_index(f)]
    as_rows = time.process_time() - started, resident() - begin - used
    assert len(every) == len(columns) == rows
    return {
        "rows": rows,
        "columns_seconds": round(spent, 1),
        "microseconds_to_make_a_row": round(1e6 * made / len(range(0, rows, 100)), 1),
        "columns_resident_megabytes": round(used / 1e6),
        "find_microseconds_a_key": round(1e6 * looked / len(wanted), 2),
        "rows_seconds": round(as_rows[0], 1),
        "rows_resident_megabytes": round(as_rows[1] / 1e6),
    }


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def summary(values: list[float], digits: int = 2) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {
        "median": round(middle, digits),
        "quartile_1": round(low, digits),
        "quartile_3": round(high, digits),
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description="Samples per CPU-second.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pictures", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=64, help=f"batches of {BATCH} a round")
    parser.add_argument("--index-rows", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        chain = Chain(Path(temporary), options.pictures)
        result = {
            "rounds": options.rounds,
            "vocabulary": chain.vocabulary,
            "kilobytes_a_latent": {n: round(b / 1000, 1) for n, b in chain.bytes.items()},
            **rounds_of(chain, options.rounds, options.steps),
            "seconds_to_remember_all_tags": round(chain.memory_seconds, 1),
            "microseconds_a_sample": chain.parts(range(options.steps)),
        }
        if options.index_rows:
            result["index"] = index_figures(Path(temporary) / "large", options.index_rows)
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
