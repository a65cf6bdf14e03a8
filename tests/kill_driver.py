"""Collect and curate a folder with two workers, in a process that a test can kill.

Usage: kill_driver.py PICTURES RUN [OPERATIONS]
"""

import sys

from tastemaker.recipe.content import run_contents
from tastemaker.recipe.load import parse_recipe
from tastemaker.recipe.runner import run_recipe
from tastemaker.store.rundir import RunDir

RECIPE = """
name: kills
steps:
  - {{name: pictures, stage: collect, sources: {pictures}, engine: {{workers: 2}}}}
  - name: chosen
    stage: curate
    collection: pictures
    columns: [{operations}]
    rules:
      - {{rule: range, column: pixels.sharpness, least: 10}}
      - {{rule: duplicates}}
    engine: {{workers: 2}}
"""


def main(pictures: str, folder: str, operations: str = "{kind: pixels}") -> None:
    recipe = parse_recipe(RECIPE.format(pictures=pictures, operations=operations), "kills.yaml")
    run = RunDir(folder)
    with run:
        for _ in run_recipe(recipe, run, contents=run_contents(run)):
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
