"""SQL over a catalogue: what the views show, and that no SQL reaches beyond them."""

import os

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import InputError
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import Size
from tastemaker.store import base_table
from tastemaker.store.catalogue import Catalogue, ColumnKey
from tastemaker.store.catalogue_queries import check_expression

OLD, NEW = ColumnKey("scores", 1), ColumnKey("scores", 2, {"model": "x"})
WORDS = ColumnKey("words", 1)
FIRST = "catalog/base/part-00000.parquet"
NAMES = [f"{number:02d}" for number in range(20)]


@pytest.fixture(scope="module", autouse=True)
def _quick_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        patch.setattr(base_table, "PART_ROWS", 6)
        yield


@pytest.fixture(scope="module")
def shared(tmp_path_factory, _quick_disk):
    """A collection that no test changes."""
    return collection(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def catalogue(tmp_path):
    """A collection of one test's own."""
    return collection(tmp_path)


def collection(folder):
    made = Catalogue(folder / "a=b [1]*'s" / "collection")
    made.append_base(
        [
            ImageRecord(
                name, f"/x/{name}.png", "s", name, Size(100 + n, 200), tags=("even",) * (1 - n % 2),
                attributes=(("style", "flat" if n < 5 else "deep"),),
            )
            for n, name in enumerate(NAMES)
        ]
    )  # fmt: skip
    for key, factor in ((NEW, 1), (OLD, -1)):
        write(made, key, {name: {"beauty": factor * n / 10} for n, name in enumerate(NAMES)})
    write(made, WORDS, {name: {"count": n} for n, name in enumerate(NAMES) if n != 3}, "int32")
    return made


def write(catalogue, key, rows, kind="float32"):
    fields = {name: kind for line in rows.values() for name in line}
    for part in catalogue.parts():
        own = {row.record.id for row in catalogue.rows(part)}
        here = {id_: line for id_, line in rows.items() if id_ in own}
        catalogue.write_rows(key, part, here, fields)
    catalogue.finish_column(key, fields)


def test_the_views_show_base_and_columns(catalogue):
    table = catalogue.query(
        "select id, scores_beauty, words_count, words_status, aspect, megapixels, short_side, "
        "map_from_entries(attributes)['style'] as style from \"all\" order by id"
    )
    assert table["id"].to_pylist() == NAMES
    assert table["words_count"].to_pylist() == [0, 1, 2, None, *range(4, 20)]
    assert table["words_status"].to_pylist() == ["ok"] * 3 + ["missing"] + ["ok"] * 16
    assert table["scores_beauty"].to_pylist()[:2] == pytest.approx([0, 0.1])
    assert table["aspect"].to_pylist()[0] == 2.0
    assert table["megapixels"].to_pylist()[0] == 0.02
    assert table["short_side"].to_pylist()[:2] == [100, 101]
    assert table["style"].to_pylist() == ["flat"] * 5 + ["deep"] * 15


def test_the_highest_version_shows_unless_others_are_named(catalogue):
    best = "select max(beauty) as b from scores"
    assert catalogue.query(best).to_pylist() == [{"b": pytest.approx(1.9)}]
    assert catalogue.query(best, {"scores": OLD}).to_pylist() == [{"b": 0.0}]
    both = {"new": NEW, "old": OLD}
    table = catalogue.query('select min(new_beauty + old_beauty) as zero from "all"', both)
    assert table.to_pylist() == [{"zero": 0.0}]
    with pytest.raises(InputError, match="words"):
        catalogue.query("select * from words", both)
    with pytest.raises(InputError, match=r"column x: got .*nope@1.*, which is not finished"):
        catalogue.query("select 1", {"x": ColumnKey("nope", 1)})
    # Of two columns of one version, the one that was finished last.
    other = ColumnKey("scores", 2, {"model": "y"})
    write(catalogue, other, {NAMES[0]: {"beauty": 7.0}})
    folder = catalogue.column_path(other)
    os.utime(folder / "manifest.json", ns=(0, 2**62))
    assert catalogue.query(best).to_pylist() == [{"b": 7.0}]


def test_vectors_have_a_view_but_do_not_weigh_on_all(catalogue):
    key = ColumnKey("clip", 1)
    write(catalogue, key, {NAMES[0]: {"vector": [0.5, 1.0]}}, "vector<float16>")
    assert "clip_vector" not in catalogue.query('select * from "all"').column_names
    found = catalogue.query("select vector from clip where status = 'ok'").to_pylist()
    assert found == [{"vector": [0.5, 1.0]}]


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_join_by_id_whatever_the_parts_look_like(catalogue, threads):
    """Columns that fit are joined by position; the ids of both sides must be the same."""
    same = (
        "select count(*) as n from images positional join scores s positional join words w "
        "where images.id = s.id and s.id = w.id and h >= 110"
    )
    assert catalogue.query(same, threads=threads).to_pylist() == [{"n": 10}]
    wrong = (
        'select count(*) as n from "all" '
        "where round(scores_beauty * 10) <> id::INT or words_count <> id::INT"
    )
    assert catalogue.query(wrong, threads=threads).to_pylist() == [{"n": 0}]
    # One column loses a file, and base grows in the open part: these are joined by id.
    (catalogue.column_path(WORDS) / "part-00001.parquet").unlink()
    catalogue.append_base([ImageRecord(str(n), "", "s", str(n), Size(1, 1)) for n in range(20, 40)])
    assert catalogue.query(wrong, threads=threads).to_pylist() == [{"n": 0}]
    counts = 'select count(*) as n, count(scores_beauty) as s, count(words_count) as w from "all"'
    assert catalogue.query(counts).to_pylist() == [{"n": 40, "s": 20, "w": 13}]


def test_queries_of_nothing(tmp_path):
    empty = Catalogue(tmp_path / "none")
    assert empty.query("select count(*) as n from images").to_pylist() == [{"n": 0}]
    assert empty.boolean_column("h > 3").values.shape == (0,)
    empty.finish_column(WORDS, {"count": "int32"})
    assert empty.query('select words_count from "all"').num_rows == 0


@pytest.mark.parametrize(
    "sql",
    [
        "select nothing from images",
        "selec",
        "",
        "-- nothing",
        "drop view images",
        "select 1; select 2",
        "select 1; drop view images",
        "pragma version",
        "set threads = 1",
        "explain select 1",
        "call pragma_version()",
        "copy (select 1) to '{out}'",
        "copy images to '{out}'",
        "export database '{out}'",
        "attach '{out}' as x",
        "install httpfs",
        "load httpfs",
        "create table t as select 1",
        "with x as (insert into images values (1) returning 1) select * from x",
        "select * from query('copy (select 1) to ''{out}''')",
        "select getenv('HOME')",
        "select * from hidden",
        "select * from '/etc/passwd'",
    ],
)
def test_a_query_is_one_select_over_the_views(shared, tmp_path, sql):
    hidden = shared.base_table()
    assert hidden.num_rows == 20
    with pytest.raises(InputError, match="query: got"):
        shared.query(sql.replace("{out}", str(tmp_path / "out")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('/etc/passwd')",
        "select * from read_text('/etc/passwd')",
        "select * from read_blob('/proc/self/environ')",
        "select * from '{own}/manifest.json'",
        "select * from read_json('{own}/manifest.json')",
        "select * from read_text('{own}/../../../../secret.txt')",
        "select * from read_parquet('{own}/../../../../other.parquet')",
        "select * from read_parquet('{own}/*.parquet')",
        "select * from glob('/etc/*')",
        "select * from glob('{own}/*')",
        "select * from sniff_csv('/etc/passwd')",
        "select * from parquet_metadata('/etc/passwd')",
        "select * from read_csv('https://localhost:1/x.csv')",
        "select * from duckdb_secrets()",
    ],
)
def test_a_query_reads_no_file_but_those_of_the_views(shared, sql):
    folder = shared.path.parents[1]
    (folder / "secret.txt").write_text("secret")
    (folder / "other.parquet").write_bytes((shared.path / FIRST).read_bytes())
    own = str((shared.path / FIRST).parent).replace("'", "''")
    with pytest.raises(InputError, match="operations are disabled"):
        shared.query(sql.replace("{own}", own))


TRICKS = [
    "",
    "-- h > 1",
    "h > 1, true",
    "h > 1) or exists (select 1",
    "1), (2",
    "h > 1 as x",
    "x: h > 1",
    "h > 1 from images",
    "true where false",
    "h > 1 from images where (true",
    "h > 1; select 1",
    "h > 1;",
    "h > 1 union select true",
    "h > 1 limit 1",
    "h > 1 order by 1",
    "distinct h > 1",
    "all h > 1",
    "h > 1 qualify true",
    "h > 1 using sample 3",
    "true window w as ()",
    "h > 1 /* not closed",
    "*",
    "columns('h')",
    "images.*",
    "select true",
    "h >",
]


@pytest.mark.parametrize("expression", TRICKS)
def test_an_expression_is_one_expression(shared, expression):
    with pytest.raises(InputError, match="expression: got"):
        check_expression(expression)
    with pytest.raises(InputError, match="expression: got"):
        shared.boolean_column(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "h",
        "no_such_field > 1",
        "scores.nothing > 1",
        "count(*) > 1",
        "unnest([true, false])",
        "? > 1",
        "(select true from images)",
        "exists (select 1 from read_csv('/etc/passwd'))",
        "(select content from read_text('/etc/passwd')) <> ''",
        "exists (select 1 from '/etc/passwd')",
    ],
)
def test_an_expression_gives_one_truth_a_row_and_reads_nothing_else(shared, expression):
    check_expression(expression)
    with pytest.raises(InputError, match="expression: got"):
        shared.boolean_column(expression)


def test_truth_is_in_the_order_of_base_and_null_is_false(shared):
    found = shared.boolean_column("words.count >= 10 and h < 118")
    assert found.values.tolist() == [10 <= n < 18 for n in range(20)]
    assert found.unknown.tolist() == [n == 3 for n in range(20)]
    assert (found.values.dtype, found.unknown.dtype) == (np.bool_, np.bool_)
    assert shared.boolean_column("null").unknown.all()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("words_count = 7 -- a comment", [7]),
        ("words.count in (1, 2) or Words.Count between 4 and 5", [1, 2, 4, 5]),
        ("list_contains(tags, 'even') and scores.beauty < 0.35", [0, 2]),
        ("map_from_entries(attributes)['style'] = 'flat' and words.status = 'missing'", [3]),
        ("words.count >= (select max(words.count) from words)", [19]),
        ("row_number() over (order by scores.beauty desc) <= 2", [18, 19]),
        ("case when words.count > 17 then true else h::DOUBLE = 100 end", [0, 18, 19]),
        ("id like '1%' and not (words.count is distinct from 12)", [12]),
        ("words.count::VARCHAR = '5' or key = 'it''s -- ('", [5]),
        ('"all".h > 118', [19]),
    ],
)
def test_expressions_that_people_write(shared, expression, expected):
    assert np.flatnonzero(shared.boolean_column(expression).values).tolist() == expected


def test_named_columns_are_those_of_the_expression(shared):
    found = shared.boolean_column("s.beauty < -1.85", {"s": OLD})
    assert np.flatnonzero(found.values).tolist() == [19]
    with pytest.raises(InputError, match="words"):
        shared.boolean_column("words.count > 1", {"s": OLD})


def test_the_names_in_an_expression_are_told():
    text = "pixels.sharpness > 3 and (h > W or id in (select x.y from x))"
    assert check_expression(text) == ("W", "h", "id", "pixels.sharpness")


pieces = st.sampled_from(
    [" h ", ">", "1", "(", ")", "--", "\n", "/*", "*/", "'", ",", ";", " or ", " as x", " true "]
    + [" from images", " union select ", "select ", " limit 1", '"', "x: ", " distinct "]
)


@given(st.lists(pieces, max_size=7).map("".join))
def test_what_passes_stays_within_its_brackets(expression):
    try:
        check_expression(expression)
    except InputError:
        return
    with duckdb.connect() as connection:
        connection.execute("create table images as select 1 as h")
        made = connection.sql(f"select 1, (\n{expression}\n), 3 from images")
        assert (len(made.columns), len(made.fetchall())) == (3, 1)
