import assert from "node:assert/strict";
import { test } from "node:test";

import {
  dueOf,
  figuresOf,
  looksOf,
  mondayOf,
  quotaOf,
  totalOf,
  warningsOf,
  weekLabels,
  weeksOf,
} from "../../airflow_provider_nexthink/plugins/static/seats_model.js";

const HOUR_MS = 3_600_000;
const week = (name, scheduled, gone, returned) => ({ week: name, scheduled, gone, returned, net: gone - returned });
const look = (summary, entry = {}) => ({
  entry: { dag_id: "daily", task_id: "reconcile", run_id: "r", map_index: -1, ...entry },
  summary: { looked_at: "2026-11-28T06:00:00+00:00", by_week: [], ...summary },
});
const looks = (...summaries) => looksOf(summaries.map((summary, at) => look(summary, { map_index: at })));

test("of two tasks that look at one tenant the newest look counts, whatever their order", () => {
  const older = look({ instance: "acme", net: 1, looked_at: "2026-11-27T06:00:00+00:00" }, { task_id: "older" });
  const newer = look({ instance: "acme", net: 2 }, { task_id: "newer" });
  for (const reconciles of [
    [older, newer],
    [newer, older],
  ]) {
    const found = looksOf(reconciles);
    assert.equal(found.length, 1);
    assert.equal(found[0].summary.net, 2);
    assert.equal(found[0].entry.task_id, "newer");
  }
});

test("times of looks are compared as times, not as text", () => {
  const found = looksOf([
    look({ instance: "acme", net: 1, looked_at: "2026-11-28T01:00:00+02:00" }),
    look({ instance: "acme", net: 2, looked_at: "2026-11-27T23:30:00+00:00" }, { task_id: "b" }),
  ]);
  assert.equal(found[0].summary.net, 2);
});

test("looks of before the tenant was recorded stand for themselves", () => {
  const found = looks({}, {}, { instance: "" }, { instance: "acme" });
  assert.deepEqual(
    found.map(({ label, instance }) => [label, instance]),
    [
      ["acme", "acme"],
      ["daily.reconcile [0]", null],
      ["daily.reconcile [1]", null],
      ["daily.reconcile [2]", null],
    ],
  );
});

test("figures are those of the summary; of an older one, the sums of its weeks", () => {
  const by_week = [week("2026-W47", 10, 4, 0), week("2026-W48", 0, 1, 9)];
  assert.deepEqual(
    figuresOf({ by_week, seats_won: 5, seats_returned: 9, net: -4, still_present: 3, not_compared: 0 }),
    { scheduled: 10, gone: 5, returned: 9, net: -4, still_present: 3, not_compared: 0 },
  );
  assert.deepEqual(figuresOf({ by_week }), {
    scheduled: 10,
    gone: 5,
    returned: 9,
    net: -4,
    still_present: null,
    not_compared: null,
  });
});

test("the total is unknown where the figure of one tenant is", () => {
  const total = totalOf(
    looks({ instance: "a", net: 4, still_present: 2, not_compared: 1 }, { instance: "b", net: -6, still_present: 3 }),
  );
  assert.equal(total.net, -2);
  assert.equal(total.still_present, 5);
  assert.equal(total.not_compared, null);
});

test("weeks are whole from the first to that of the look, over the turn of a year with 53 weeks", () => {
  const found = weeksOf(
    looks({
      instance: "a",
      looked_at: "2027-01-18T00:30:00+00:00",
      by_week: [week("2026-W52", 5, 3, 0), week("2027-W01", 0, 1, 4)],
    }),
  );
  assert.deepEqual(
    found.map((each) => [each.week, each.monday, each.scheduled, each.gone, each.returned, each.net, each.total]),
    [
      ["2026-W52", "2026-12-21", 5, 3, 0, 3, 3],
      ["2026-W53", "2026-12-28", 0, 0, 0, 0, 3],
      ["2027-W01", "2027-01-04", 0, 1, 4, -3, 0],
      ["2027-W02", "2027-01-11", 0, 0, 0, 0, 0],
      ["2027-W03", "2027-01-18", 0, 0, 0, 0, 0],
    ],
  );
});

test("weeks of several tenants are added", () => {
  const found = weeksOf(
    looks(
      { instance: "a", by_week: [week("2026-W47", 1, 2, 3)] },
      { instance: "b", by_week: [week("2026-W47", 10, 20, 30), week("2026-W48", 4, 5, 6)] },
    ),
  );
  assert.deepEqual(
    found.map(({ scheduled, gone, returned, net, total }) => [scheduled, gone, returned, net, total]),
    [
      [11, 22, 33, -11, -11],
      [4, 5, 6, -1, -12],
    ],
  );
});

test("every week of forty years is found from its name", () => {
  const from = Date.UTC(2000, 0, 3);
  const [first, last] = ["2000-W01", "2039-W52"];
  assert.equal(mondayOf(first), from);
  const names = [];
  for (let at = 0; at < 700; at += 1)
    names.push(
      weeksOf(
        looks({
          looked_at: new Date(from + (at + 1) * 7 * 24 * HOUR_MS - 1).toISOString(),
          by_week: [week(first, 1, 0, 0)],
        }),
      ).at(-1).week,
    );
  assert.equal(new Set(names).size, 700);
  assert.ok(names.every((name, at) => mondayOf(name) === from + at * 7 * 24 * HOUR_MS));
  assert.notEqual(mondayOf(last), null);
});

test("what is no week is left out, and a week of a wrong clock fills no page", () => {
  for (const text of ["2026-W54", "2026-W00", "2025-W53", "2026-11", "", null])
    assert.equal(mondayOf(text), null, text);
  assert.equal(weeksOf(looks({ by_week: [week("nonsense", 1, 1, 1)] })).length, 0);
  assert.deepEqual(
    weeksOf(looks({ by_week: [week("1970-W01", 0, 1, 0), week("2026-W48", 0, 2, 0)] })).map(({ week: name, total }) => [
      name,
      total,
    ]),
    [
      ["1970-W01", 1],
      ["2026-W48", 3],
    ],
  );
});

test("labels of weeks have the year where it changes", () => {
  assert.deepEqual(weekLabels(["2026-W50", "2026-W52", "2027-W01", "2027-W03"]), [
    "2026-W50",
    "W52",
    "2027-W01",
    "W03",
  ]);
});

test("a look is old after three days", () => {
  const [found] = looks({ instance: "acme" });
  const at = Date.parse(found.summary.looked_at);
  assert.deepEqual(warningsOf(found, at + 72 * HOUR_MS), []);
  assert.match(warningsOf(found, at + 72 * HOUR_MS + 1)[0], /^acme: the latest look is 3 days old/);
});

test("a ledger that looks too young is said", () => {
  const [found] = looks({ instance: "acme", looks_too_young: true });
  assert.match(warningsOf(found, Date.parse(found.summary.looked_at))[0], /restored from a backup/);
});

test("quota: used and left, none, and not said", () => {
  assert.deepEqual(quotaOf({ quota: { devices: 500, days: 6, used: 312, left: 188 } }), {
    devices: 500,
    days: 6,
    used: 312,
    left: 188,
  });
  assert.equal(quotaOf({ quota: { devices: 500, days: 6, used: 600 } }).left, 0);
  assert.equal(quotaOf({ quota: null }), null);
  assert.equal(quotaOf({}), undefined);
});

test("days at which devices are due, and how many are on others", () => {
  const due_by_day = [{ day: "2026-12-06", devices: 23 }];
  assert.deepEqual(dueOf({ due_by_day, waiting: 25 }), { days: due_by_day, others: 2 });
  assert.deepEqual(dueOf({ due_by_day, waiting: 23 }).others, 0);
  assert.deepEqual(dueOf({ waiting: 23 }), { days: [], others: 0 });
});
