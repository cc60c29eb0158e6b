import assert from "node:assert/strict";
import { test } from "node:test";

import {
  dryRunOf,
  explainState,
  isShown,
  limitsOf,
  newestFirst,
  realRunOf,
  sorted,
  toRun,
  totalsOf,
} from "../../airflow_provider_nexthink/plugins/static/run.js";

const zeros = Object.fromEntries(
  ["SCHEDULED", "INVALID", "FAILED", "REJECTED", "DUPLICATE", "EXCLUDED", "PLANNED", "UNKNOWN", "NOT_SENT"].map(
    (status) => [status, 0],
  ),
);

function a_run(number, summary = {}, instance = {}) {
  const at = `2026-11-${String(10 + number)}T00:00:00Z`;
  const entry = { dag_id: "d", run_id: `manual__${number}`, task_id: "t", map_index: -1, timestamp: at };
  const state = {
    dag_id: "d",
    dag_run_id: entry.run_id,
    task_id: "t",
    map_index: -1,
    state: "success",
    start_date: at,
    ...instance,
  };
  return toRun({
    instance: state,
    entry,
    summary: summary && { requested: 0, dry_run: false, instance: "acme", started_at: at, ...zeros, ...summary },
  });
}

test("the newest is first, and chunks of one moment are in their order, whichever was read first", () => {
  const chunk = (map_index) => ({ when: "2026-11-22T00:00:00Z", map_index });
  const newer = { when: "2026-11-23T00:00:00+00:00", map_index: -1 };
  const inOrder = [newer, chunk(0), chunk(2), chunk(10)];
  for (const read of [
    [2, 0, 3, 1],
    [3, 2, 1, 0],
    [1, 3, 0, 2],
  ])
    assert.deepEqual(read.map((at) => inOrder[at]).sort(newestFirst), inOrder);
});

test("a blocked run has its planned devices as blocked, and nothing else", () => {
  const run = a_run(1, {
    requested: 9,
    NOT_SENT: 9,
    error: { type: "NexthinkGuardError", message: "m", sent_nothing: true, planned: 9, limit: 5 },
  });
  assert.equal(run.state, "blocked");
  assert.deepEqual(run.counts, { scheduled: 0, attention: 0, kept: 0, planned: 0, blocked: 9 });
  assert.equal(explainState(run), "9 devices, limit 5: nothing sent");
});

test("a guard at a retry does not make what was sent before blocked", () => {
  const run = a_run(1, {
    SCHEDULED: 9,
    error: { type: "NexthinkGuardError", message: "m", sent_nothing: false, planned: 9, limit: 5 },
  });
  assert.deepEqual([run.state, run.counts.scheduled, run.counts.blocked], ["failed", 9, 0]);
});

test("states without a summary", () => {
  const states = ["running", "up_for_retry", "failed", "upstream_failed", "success"].map(
    (state) => a_run(1, null, { state }).state,
  );
  assert.deepEqual(states, ["running", "running", "failed", "failed", "unknown"]);
});

test("totals leave out dry runs", () => {
  const totals = totalsOf([
    a_run(1, { SCHEDULED: 3, EXCLUDED: 1 }),
    a_run(2, { PLANNED: 7, EXCLUDED: 5, dry_run: true }),
  ]);
  assert.deepEqual([totals.runs, totals.scheduled, totals.kept, totals.dry_runs], [1, 3, 1, 1]);
});

test("a dry run belongs to the real run right after it", () => {
  const runs = [a_run(1, { dry_run: true }), a_run(2), a_run(3)];
  assert.equal(dryRunOf(runs[1], runs), runs[0]);
  assert.equal(dryRunOf(runs[2], runs), null);
  assert.equal(realRunOf(runs[0], runs), runs[1]);
});

test("a chunk is not compared with the plan of all chunks", () => {
  const plan = a_run(1, { PLANNED: 9, dry_run: true });
  const chunk = { ...a_run(2, { SCHEDULED: 3 }, { map_index: 1 }), run_id: plan.run_id };
  assert.equal(chunk.map_index, 1);
  assert.equal(dryRunOf(chunk, [plan, chunk]), null);
  assert.equal(dryRunOf({ ...chunk, map_index: -1 }, [plan, chunk]), plan);
});

test("a share is shown in percent", () => {
  const run = a_run(1, { limits: { max_share: 0.07, max_devices: 5, exclude: [] } });
  assert.deepEqual(limitsOf(run), [
    ["At most", 5],
    ["Share of the fleet", "7 %"],
  ]);
});

test("filters and order", () => {
  const runs = [a_run(1, { SCHEDULED: 1 }), a_run(2, { SCHEDULED: 3 }), a_run(3, { PLANNED: 2, dry_run: true })];
  assert.deepEqual(runs.filter((run) => isShown(run, {})).length, 2);
  assert.deepEqual(runs.filter((run) => isShown(run, { kind: "all", tenant: "other" })).length, 0);
  assert.deepEqual(
    sorted(runs, "-devices").map(({ total }) => total),
    [3, 2, 1],
  );
  assert.deepEqual(sorted(runs, "when"), runs);
});
