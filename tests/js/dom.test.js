import assert from "node:assert/strict";
import { test } from "node:test";

import { duration, number, plural } from "../../airflow_provider_nexthink/plugins/static/dom.js";

test("number separates thousands with a comma", () => {
  assert.equal(number(0), "0");
  assert.equal(number(999), "999");
  assert.equal(number(80_003), "80,003");
  assert.equal(number(1_234_567), "1,234,567");
});

test("plural has the singular for 1 only", () => {
  assert.equal(plural(0, "device"), "0 devices");
  assert.equal(plural(1, "device"), "1 device");
  assert.equal(plural(2, "device"), "2 devices");
  assert.equal(plural(80_003, "device"), "80,003 devices");
});

test("duration below a minute has tenths of a second", () => {
  assert.equal(duration(0), "0.0 s");
  assert.equal(duration(12.34), "12.3 s");
  assert.equal(duration(59.9), "59.9 s");
});

test("duration below an hour has minutes and whole seconds", () => {
  assert.equal(duration(60), "1 min 0 s");
  assert.equal(duration(61.9), "1 min 1 s");
  assert.equal(duration(3599.9), "59 min 59 s");
});

test("duration from an hour on has hours and minutes", () => {
  assert.equal(duration(3600), "1 h 0 min");
  assert.equal(duration(3600 * 26 + 60 * 5 + 59), "26 h 5 min");
});

test("duration of what is no number is empty", () => {
  for (const value of [undefined, null, NaN, Infinity, "60"]) assert.equal(duration(value), "");
});
