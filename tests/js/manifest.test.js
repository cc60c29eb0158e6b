import assert from "node:assert/strict";
import { test } from "node:test";

import { attentionRows } from "../../airflow_provider_nexthink/plugins/static/devices.js";
import {
  countRows,
  describePart,
  fileSize,
  manifestOf,
} from "../../airflow_provider_nexthink/plugins/static/manifest.js";
import { toRun } from "../../airflow_provider_nexthink/plugins/static/run.js";

const MANIFEST = {
  path: "s3://bucket/outcome.parquet",
  rows: 10_000,
  counts: { SCHEDULED: 9990, FAILED: 10 },
  size: 123_456,
  checksum: "9f86d081884c7d659a2feaa0c55ad015",
  unscheduled: { path: "s3://bucket/outcome.unscheduled.parquet", rows: 10 },
};

test("manifestOf: what a task with return_format=manifest returns", () => {
  assert.deepEqual(manifestOf(MANIFEST), MANIFEST);
  assert.equal(manifestOf({ ...MANIFEST, unscheduled: null }).unscheduled, null);
  assert.equal(manifestOf({ ...MANIFEST, unscheduled: { path: "x", rows: 0 } }).unscheduled, null);
  assert.deepEqual(manifestOf({ path: "a.csv", rows: 0 }), {
    path: "a.csv",
    rows: 0,
    counts: {},
    size: null,
    checksum: null,
    unscheduled: null,
  });
});

test("manifestOf: null for tables and anything else", () => {
  const others = [
    null,
    undefined,
    "s3://bucket/xcom",
    7,
    [],
    [{ status: "FAILED" }],
    { uid: [], name: [], status: [] },
  ];
  for (const value of [...others, { path: "", rows: 1 }, { path: 1, rows: 1 }, { path: "a", rows: "1" }])
    assert.equal(manifestOf(value), null);
});

test("countRows: in the order of the page, without statuses that nobody has", () => {
  assert.deepEqual(countRows({ FAILED: 2, SCHEDULED: 8, INVALID: 0 }), [
    ["SCHEDULED", 8],
    ["FAILED", 2],
  ]);
  assert.deepEqual(countRows({ PLANNED: 10, EXCLUDED: 1 }, { SCHEDULED: 9, EXCLUDED: 1, requested: 10 }), [
    ["SCHEDULED", 0, 9],
    ["EXCLUDED", 1, 1],
    ["PLANNED", 10, 0],
  ]);
});

test("fileSize: in units of 1,000", () => {
  assert.deepEqual([0, 1, 999, 1000, 123_456, 999_960, 12_345_678_901].map(fileSize), [
    "0 bytes",
    "1 byte",
    "999 bytes",
    "1 kB",
    "123.5 kB",
    "1 MB",
    "12.3 GB",
  ]);
});

test("describePart: whether the rows are all or the first", () => {
  assert.equal(describePart(1000, 12_345), "the first 1,000 of 12,345 rows");
  assert.equal(describePart(10, 10), "all 10 rows");
  assert.equal(describePart(1, 1), "the row");
});

test("attentionRows: of the table alone, also those of a run that sent nothing", () => {
  const error = { type: "NexthinkGuardError", message: "", sent_nothing: true };
  const summary = { SCHEDULED: 0, NOT_SENT: 9, INVALID: 2, EXCLUDED: 5, earlier_tries: { FAILED: 4 }, error };
  assert.equal(attentionRows({ summary }), 11);
});

test("may_have_file: unless Airflow knows that the task had no results_path", () => {
  const entry = { dag_id: "d", run_id: "r", task_id: "t", map_index: -1 };
  const of = (instance) => toRun({ entry, instance }).may_have_file;
  assert.equal(of({ rendered_fields: { results_path: null } }), false);
  assert.equal(of({ rendered_fields: { results_path: "s3://bucket/a.parquet" } }), true);
  assert.equal(of({ rendered_fields: {} }), true);
  assert.equal(of(null), true);
});
