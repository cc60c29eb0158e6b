// The seats that deletions have freed, from the summaries of the reconcile tasks. No I/O.

const DAY_MS = 86_400_000;
const WEEK_MS = 7 * DAY_MS;
const OLD_MS = 3 * DAY_MS;
const MAX_FILLED = 1_000; // weeks: a ledger is not older; a clock may once have been wrong

const whole = (value) => (Number.isFinite(value) ? value : 0);

// The newest look at each tenant: {id, label, instance, entry, summary}, by label. A ledger is of one tenant, so a second
// task that looks at it says the same again. A summary of before the tenant was recorded stands for itself.
export function looksOf(reconciles) {
  const looks = new Map();
  for (const { entry, summary } of reconciles) {
    const instance = typeof summary.instance === "string" && summary.instance !== "" ? summary.instance : null;
    const label = instance ?? taskLabel(entry);
    const id = instance ?? `task ${label}`;
    const known = looks.get(id);
    if (known && timeOf(known.summary) >= timeOf(summary)) continue;
    looks.set(id, { id, label, instance, entry, summary });
  }
  return [...looks.values()].sort((one, other) => (one.label < other.label ? -1 : 1));
}

const timeOf = ({ looked_at }) => Date.parse(looked_at) || 0;

export const taskLabel = ({ dag_id, task_id, map_index }) =>
  `${dag_id}.${task_id}${map_index >= 0 ? ` [${map_index}]` : ""}`;

// The figures of a look. What an older summary does not say is null.
export function figuresOf(summary) {
  const sum = (what) => summary.by_week.reduce((total, week) => total + whole(week[what]), 0);
  const gone = summary.seats_won ?? sum("gone");
  const returned = summary.seats_returned ?? sum("returned");
  return {
    scheduled: sum("scheduled"),
    gone,
    returned,
    net: summary.net ?? gone - returned,
    still_present: summary.still_present ?? null,
    not_compared: summary.not_compared ?? null,
  };
}

// The sums over several looks; null where one of them does not say it.
export function totalOf(looks) {
  const figures = looks.map(({ summary }) => figuresOf(summary));
  const sum = (name) =>
    figures.reduce((total, each) => (total === null || each[name] === null ? null : total + each[name]), 0);
  return Object.fromEntries(
    ["scheduled", "gone", "returned", "net", "still_present", "not_compared"].map((name) => [name, sum(name)]),
  );
}

// The weeks of these looks, from the first in which something happened to that of the newest look, those in which nothing
// happened too: [{week: "2026-W48", monday: "2026-11-23", scheduled, gone, returned, net, total}], total: net since the first.
export function weeksOf(looks) {
  const sums = new Map();
  for (const { summary } of looks) {
    for (const { week, scheduled, gone, returned } of summary.by_week) {
      const monday = mondayOf(week);
      if (monday === null) continue;
      const sum = sums.get(monday) ?? { scheduled: 0, gone: 0, returned: 0 };
      sums.set(monday, {
        scheduled: sum.scheduled + whole(scheduled),
        gone: sum.gone + whole(gone),
        returned: sum.returned + whole(returned),
      });
    }
  }
  if (sums.size === 0) return [];
  const first = Math.min(...sums.keys());
  const last = Math.max(...sums.keys(), ...looks.map(({ summary }) => timeOf(summary)));
  let mondays = [...sums.keys()].sort((one, other) => one - other);
  if ((last - first) / WEEK_MS <= MAX_FILLED)
    mondays = Array.from({ length: Math.floor((last - first) / WEEK_MS) + 1 }, (_, at) => first + at * WEEK_MS);
  let total = 0;
  return mondays.map((monday) => {
    const { scheduled, gone, returned } = sums.get(monday) ?? { scheduled: 0, gone: 0, returned: 0 };
    const net = gone - returned;
    total += net;
    return {
      week: weekOf(monday),
      monday: new Date(monday).toISOString().slice(0, 10),
      scheduled,
      gone,
      returned,
      net,
      total,
    };
  });
}

// The Monday of an ISO week ("2026-W48"), 0:00 UTC, as a number; null for another text.
export function mondayOf(week) {
  const found = /^(\d{4})-W(\d{2})$/.exec(week);
  if (!found) return null;
  const [year, at] = [Number(found[1]), Number(found[2])];
  const fourth = Date.UTC(year, 0, 4); // is always in the first week
  const monday = fourth - weekday(fourth) * DAY_MS + (at - 1) * WEEK_MS;
  return weekOf(monday) === week ? monday : null;
}

const weekday = (time) => (new Date(time).getUTCDay() + 6) % 7; // 0: Monday

// The ISO week of a Monday.
function weekOf(monday) {
  const year = new Date(monday + 3 * DAY_MS).getUTCFullYear(); // of the Thursday
  const fourth = Date.UTC(year, 0, 4);
  const at = Math.round((monday - (fourth - weekday(fourth) * DAY_MS)) / WEEK_MS) + 1;
  return `${String(year).padStart(4, "0")}-W${String(at).padStart(2, "0")}`;
}

// The labels of an axis: the year only where it is another one than in the label before.
export function weekLabels(weeks) {
  return weeks.map((week, at) => (at > 0 && week.slice(0, 4) === weeks[at - 1].slice(0, 4) ? week.slice(5) : week));
}

// What is to be said about a look: warnings in words.
export function warningsOf({ label, summary }, now) {
  const found = [];
  const age = now - timeOf(summary);
  if (age > OLD_MS)
    found.push(
      `${label}: the latest look is ${Math.floor(age / DAY_MS)} days old. What went or came back since is not in these figures.`,
    );
  if (summary.looks_too_young === true) {
    found.push(
      `${label}: the ledger looks too young. It has fewer runs, or an older latest one, than this task has seen before: it may have been restored from a backup, and then these figures are too low.`,
    );
  }
  return found;
}

// {devices, days, used, left} with numbers that can be relied on; null if there is no quota, undefined if an older summary does not say.
export function quotaOf({ quota }) {
  if (quota === null || quota === undefined) return quota;
  const devices = whole(quota.devices);
  const used = whole(quota.used);
  return { devices, days: quota.days, used, left: quota.left ?? Math.max(0, devices - used) };
}

// The days at which devices can be due: [{day, devices}], and how many devices are waiting for a day that is not listed.
export function dueOf({ due_by_day, waiting }) {
  if (!Array.isArray(due_by_day)) return { days: [], others: 0 };
  const days = due_by_day.map(({ day, devices }) => ({ day: String(day), devices: whole(devices) }));
  return { days, others: Math.max(0, whole(waiting) - days.reduce((sum, { devices }) => sum + devices, 0)) };
}
