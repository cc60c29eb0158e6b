// The state of each device over several runs. No I/O.

import { sentNothing, whoOf } from "./run.js";
import { ACTION_REQUIRED } from "./statuses.js";

const BARE_UID = /^[0-9a-f]{32}$/;
const SETTLED = ["SCHEDULED", "EXCLUDED"]; // in a newer run: nobody has to look at the older row
const RETRYABLE = ["FAILED", "UNKNOWN", "NOT_SENT"]; // as in status.py; the others have to be corrected first

// A uid in lower case with hyphens; other text in lower case.
export function canonicalUid(uid) {
  const text = String(uid ?? "")
    .trim()
    .toLowerCase();
  return BARE_UID.test(text) ? text.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-") : text;
}

// Tells devices apart: by tenant and uid, without a uid by the name.
export function deviceKey(tenant, uid, name) {
  const text = canonicalUid(uid);
  return JSON.stringify(
    text
      ? [tenant, text]
      : [
          tenant,
          "",
          String(name ?? "")
            .trim()
            .toLowerCase(),
        ],
  );
}

// With the devices of earlier tries that are not in the table.
const countOf = (summary, status) => (Number(summary[status]) || 0) + (Number(summary.earlier_tries?.[status]) || 0);

// Whether one of these has to be read: {unscheduled, earlier}.
export const attentionIn = ({ summary, counts }) => ({
  unscheduled: counts.attention > 0,
  earlier: ACTION_REQUIRED.some((status) => summary.earlier_tries?.[status] > 0),
});

// How many rows of its table need attention: those of the XCom "unscheduled", which may have only the first.
export const attentionRows = ({ summary }) =>
  ACTION_REQUIRED.reduce((sum, status) => sum + (Number(summary[status]) || 0), 0);

const timeOf = (run) => Date.parse(run.when) || 0;

// Collects the rows that need attention, each device once with its newest state. The runs may come in any order, each once.
export class AttentionList {
  #entries = new Map(); // by device
  #oldest = new Map(); // by tenant

  // table: rows of a run; those that need attention are taken.
  add(run, table) {
    const time = timeOf(run);
    for (let at = 0; at < table.status.length; at += 1) {
      const status = table.status[at];
      if (!ACTION_REQUIRED.includes(status) || (status === "NOT_SENT" && sentNothing(run.summary))) continue;
      const uid = table.uid[at];
      const name = table.name[at];
      const key = deviceKey(run.tenant, uid, name);
      const known = this.#entries.get(key);
      const entry = known ?? { runs: 0, counted: null, time: -1, settled: -1 };
      if (!known) this.#entries.set(key, entry);
      if (entry.counted !== run.key) {
        entry.counted = run.key;
        entry.runs += 1;
      }
      if (time > entry.time) Object.assign(entry, { time, run, uid, name, status, reason: table.reason[at] ?? null });
      this.#oldest.set(run.tenant, Math.min(time, this.#oldest.get(run.tenant) ?? time));
    }
  }

  // Whether the table of a run may say that a device of this list needs nobody any more.
  needs({ is_dry, summary, tenant, when }) {
    const oldest = this.#oldest.get(tenant);
    return (
      !is_dry &&
      summary !== null &&
      oldest !== undefined &&
      Date.parse(when) > oldest &&
      SETTLED.some((status) => countOf(summary, status) > 0)
    );
  }

  // table: rows of a run. Returns whether the list has changed.
  settle(run, table) {
    const time = timeOf(run);
    let changed = false;
    for (let at = 0; at < table.status.length; at += 1) {
      if (!SETTLED.includes(table.status[at])) continue;
      const entry = this.#entries.get(deviceKey(run.tenant, table.uid[at], table.name[at]));
      if (!entry || time <= entry.settled) continue;
      changed ||= entry.settled < entry.time && time > entry.time;
      entry.settled = time;
    }
    return changed;
  }

  // The newest first. runs: how many runs have a row of this device that needs attention.
  rows() {
    return [...this.#entries.values()]
      .filter(({ time, settled }) => time >= settled)
      .sort((one, other) => other.time - one.time);
  }
}

// Runs that need somebody as a whole: blocked, failed, awaiting an approval. Repeats of the same are one entry, {run, repeats}
// with the newest; later: a real run of the same task that ended well afterwards.
export function openRuns(runs) {
  const found = new Map();
  for (const run of [...runs].sort((one, other) => timeOf(other) - timeOf(one))) {
    const isOpen = run.state === "approval" || (!run.is_dry && ["blocked", "failed"].includes(run.state));
    if (!isOpen) continue;
    const error = run.summary?.error;
    const same = JSON.stringify([
      run.dag_id,
      run.task_id,
      run.map_index,
      run.tenant,
      run.state,
      run.approval?.address,
      error?.type,
      error?.message,
    ]);
    const known = found.get(same);
    if (known) known.repeats += 1;
    else found.set(same, { run, repeats: 0, later: runs.find((other) => endedLater(run, other)) ?? null });
  }
  return [...found.values()];
}

// The tenant of a run without a summary is not known.
const endedLater = (run, other) =>
  ["dag_id", "task_id", "map_index"].every((name) => other[name] === run[name]) &&
  (run.tenant === null || run.tenant === other.tenant) &&
  !other.is_dry &&
  ["done", "attention"].includes(other.state) &&
  timeOf(other) > timeOf(run);

// {reason, status, remedy, count} of the rows, the most frequent first. explain(row) returns {reason, remedy}.
export function reasonsOf(rows, explain) {
  const found = new Map();
  for (const row of rows) {
    const { reason, remedy } = explain(row);
    const known = found.get(reason);
    if (known) known.count += 1;
    else found.set(reason, { reason, remedy, status: row.status, count: 1 });
  }
  return [...found.values()].sort((one, other) => other.count - one.count);
}

// The header that tells the kind of uid, as far as the name of the column does: the kinds must not be mixed in one list.
export function uidHeader(column) {
  const bare = String(column ?? "")
    .toLowerCase()
    .replaceAll(/[^a-z0-9]/g, "");
  if (bare.includes("collector")) return "device.collector.uid";
  return bare === "deviceuid" ? "device.uid" : "uid";
}

// What of these rows can be run again: {lists: [{tenant, header, rows}], left: how many a retry cannot change}. One list for each
// tenant and kind of uid.
export function listsToRun(rows) {
  const lists = new Map();
  let left = 0;
  for (const row of rows) {
    if (!RETRYABLE.includes(row.status)) {
      left += 1;
      continue;
    }
    const { tenant, summary } = row.run;
    const header = uidHeader(summary?.uid_column);
    const key = JSON.stringify([tenant, header]);
    if (!lists.has(key)) lists.set(key, { tenant, header, rows: [] });
    lists.get(key).rows.push(row);
  }
  return { lists: [...lists.values()], left };
}

// Returns matches(uid, name): whether one of them contains the text, in any case.
export function matcher(text) {
  const wanted = text.trim().toLowerCase();
  const uid = canonicalUid(text);
  return (itsUid, name) => {
    const lower = String(itsUid ?? "").toLowerCase();
    return (
      lower.includes(wanted) ||
      lower.includes(uid) ||
      String(name ?? "")
        .toLowerCase()
        .includes(wanted)
    );
  };
}

// What is known of a device. hits: {run, uid, name, status} that match the text, the newest first.
// Returns {devices, last, planned}: the devices that are meant, and if it is one, its newest row of a real run (last), and of a
// dry run after that.
export function answerTo(text, hits) {
  const wanted = text.trim().toLowerCase();
  const uid = canonicalUid(text);
  const exact = hits.filter(
    (hit) =>
      canonicalUid(hit.uid) === uid ||
      String(hit.name ?? "")
        .trim()
        .toLowerCase() === wanted,
  );
  const meant = exact.length > 0 ? exact : hits;
  const devices = new Map();
  for (const hit of meant) {
    const key = deviceKey(hit.run.tenant, hit.uid, hit.name);
    if (!devices.has(key)) devices.set(key, { uid: hit.uid, name: hit.name, tenant: hit.run.tenant });
  }
  if (devices.size !== 1) return { devices: [...devices.values()], last: null, planned: null };
  const own = meant.filter(({ status }) => status !== "DUPLICATE");
  const last = own.find(({ run }) => !run.is_dry) ?? null;
  const planned = own.find(({ run }) => run.is_dry) ?? null;
  const isAfter = planned && (!last || timeOf(planned.run) > timeOf(last.run));
  return { devices: [...devices.values()], last, planned: isAfter ? planned : null };
}

// The newest look at the inventory of each tenant. reconciles: {entry, summary}.
export function newestLooks(reconciles) {
  const newest = new Map();
  const time = ({ entry, summary }) => Date.parse(summary.looked_at ?? entry.timestamp) || 0;
  for (const look of [...reconciles].sort((one, other) => time(one) - time(other))) {
    newest.set(look.summary.instance ?? JSON.stringify([look.entry.dag_id, look.entry.task_id]), look);
  }
  return [...newest.values()];
}

// "by anna"; nothing if it is not known.
export function byWhom(run) {
  const who = whoOf(run);
  return who === "not recorded" ? "" : `by ${who}`;
}

// A text as one word of a shell.
export const shellWord = (text) =>
  /^[\w.:@%+/-]+$/.test(text) && !text.startsWith("-") ? text : `'${text.replaceAll("'", "'\\''")}'`;
