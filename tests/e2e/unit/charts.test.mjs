// Scales of the charts.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ticks } from "../../../gateway/web/charts.js";

test("numbers of a scale are round, begin at 0 and reach the top", () => {
  assert.deepEqual(ticks(0), [0, 0.5, 1]);
  assert.deepEqual(ticks(40), [0, 10, 20, 30, 40]);
  assert.deepEqual(ticks(9), [0, 2.5, 5, 7.5, 10]);
  assert.deepEqual(ticks(3, 4, true), [0, 1, 2, 3]);
});

test("no number of a scale needs more than the one decimal that is shown", () => {
  for (const top of [0.001, 0.03, 0.2, 0.7, 1, 1.4, 3, 7, 12]) {
    const found = ticks(top);
    assert.ok(found.at(-1) >= top);
    assert.deepEqual(found.map((each) => Number(each.toFixed(1))), found);
  }
});
