import assert from "node:assert/strict";
import { test } from "node:test";

import { compare } from "../../airflow_provider_nexthink/plugins/static/compare.js";
import { csv, fileName, likeFormulas } from "../../airflow_provider_nexthink/plugins/static/csv.js";
import { niceMaximum } from "../../airflow_provider_nexthink/plugins/static/chart.js";
import { setZone, time, zoneLabel } from "../../airflow_provider_nexthink/plugins/static/time.js";

test("CSV quotes what needs it, and changes nothing", () => {
  const rows = [
    { a: 'x"y', b: "1,2" },
    { a: null, b: "=1" },
  ];
  assert.equal(
    csv(["a", "b"], [0, 1], (row, column) => rows[row][column]).join(""),
    '\ufeffa,b\r\n"x""y","1,2"\r\n,=1\r\n',
  );
  assert.deepEqual(
    likeFormulas([0, 1], (row) => ["name", "-1"][row]),
    [1],
  );
  assert.equal(fileName(["d", "manual__2026-11-22T00:00:00+00:00"]), "d_manual__2026-11-22T00-00-00-00-00.csv");
});

test("a dry run and a real run are compared by uid in any spelling", () => {
  const dry = { uid: ["AB", "cd"], name: ["1", "2"], status: ["PLANNED", "PLANNED"], reason: [null, null] };
  const real = { uid: ["ab", "ef"], name: ["1", "3"], status: ["SCHEDULED", "SCHEDULED"], reason: [null, null] };
  const found = compare(dry, real);
  assert.deepEqual([found.missing.map(({ uid }) => uid), found.added.map(({ uid }) => uid)], [["cd"], ["ef"]]);
  assert.equal(found.missing[0].text, "not in the list any more");
});

test("the axis ends at an even number that is large enough", () => {
  for (const value of [1, 2, 3, 7, 11, 99, 323, 80003]) {
    const most = niceMaximum(value);
    assert.ok(most >= value && most % 2 === 0 && most <= 2.5 * value + 2, `${value}: ${most}`);
  }
});

test("times are in the chosen zone", () => {
  setZone("America/New_York");
  assert.equal(time("2026-11-22T00:00:06+00:00"), "2026-11-21 19:00:06");
  assert.equal(zoneLabel(new Date("2026-07-01")), "America/New_York (GMT-4)");
  setZone("Mars/Olympus");
  assert.match(time("2026-11-22T12:00:06Z", { seconds: false }), /^2026-11-2\d \d\d:\d\d$/);
  assert.equal(time("no time"), "");
  assert.equal(time(null), "");
});

test("of a device that is twice in the list, the comparison names the row that says what happened", () => {
  const dry = { uid: ["A"], name: ["one"], status: ["PLANNED"], reason: [null] };
  const real = {
    uid: ["a", "A"],
    name: ["one", "one"],
    status: ["FAILED", "DUPLICATE"],
    reason: ["device locked", "the same device is earlier in the list"],
  };
  assert.equal(compare(dry, real).missing[0].text, "FAILED: device locked");
});
