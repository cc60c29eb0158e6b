// The seats that deletions have freed, from the summaries of NexthinkReconcileOperator. No I/O.

const COUNTS = ["scheduled", "gone", "returned", "net"];

// The newest look at each tenant: [{tenant, entry, summary}], by the name of the tenant.
export function newestLooks(reconciles) {
  const newest = new Map();
  for (const { entry, summary } of reconciles) {
    const tenant = summary.instance || `${entry.dag_id}, ${entry.task_id}`; // older summaries do not name it
    const known = newest.get(tenant);
    if (!known || known.summary.looked_at < summary.looked_at) newest.set(tenant, { tenant, entry, summary });
  }
  return [...newest.values()].sort((one, other) => (one.tenant < other.tenant ? -1 : 1));
}

// The weeks of several looks added up, every week from the first to the last, with the sum until then:
// [{week, scheduled, gone, returned, net, cumulative}].
export function weeksOf(looks) {
  const sums = new Map();
  for (const { summary } of looks) {
    for (const row of summary.by_week) {
      const sum = sums.get(row.week) ?? Object.fromEntries(COUNTS.map((name) => [name, 0]));
      for (const name of COUNTS) sum[name] += Number(row[name]) || 0;
      sums.set(row.week, sum);
    }
  }
  const known = [...sums.keys()].sort();
  let cumulative = 0;
  return (known.length > 0 ? weeksBetween(known[0], known.at(-1)) : []).map((week) => {
    const sum = sums.get(week) ?? Object.fromEntries(COUNTS.map((name) => [name, 0]));
    cumulative += sum.net;
    return { week, ...sum, cumulative };
  });
}

const WEEK_MS = 7 * 86_400_000;

// The weeks of ISO 8601 from one to another, both included: "2026-W01"...
export function weeksBetween(first, last) {
  const weeks = [];
  for (let monday = mondayOf(first); weeks.at(-1) !== last && weeks.length < 1000; monday += WEEK_MS)
    weeks.push(weekOf(monday));
  return weeks;
}

function mondayOf(week) {
  const [year, number] = week.split("-W").map(Number);
  const fourth = Date.UTC(year, 0, 4); // is always in the first week
  const weekday = (new Date(fourth).getUTCDay() + 6) % 7;
  return fourth - weekday * 86_400_000 + (number - 1) * WEEK_MS;
}

function weekOf(monday) {
  const thursday = new Date(monday + 3 * 86_400_000); // decides to which year a week belongs
  const year = thursday.getUTCFullYear();
  const number = 1 + Math.round((monday - mondayOf(`${year}-W01`)) / WEEK_MS);
  return `${year}-W${String(number).padStart(2, "0")}`;
}
