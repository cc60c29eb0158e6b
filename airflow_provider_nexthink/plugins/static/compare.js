// A dry run beside the real run that followed it. The pure part; outcome.js shows it.

const canonical = (uid) =>
  String(uid ?? "")
    .trim()
    .toLowerCase();

// {planned, scheduled, missing, added}: how many devices were planned and scheduled, and the rows that differ:
// [{uid, name, text}] that were planned and are not scheduled, and that are scheduled and were not planned.
export function compare(dry, real) {
  const planned = rowsWith(dry, "PLANNED");
  const scheduled = rowsWith(real, "SCHEDULED");
  const fates = new Map();
  real.uid.forEach((uid, at) => {
    // Of several rows with one uid, DUPLICATE says the least.
    if (real.status[at] !== "DUPLICATE" || !fates.has(canonical(uid))) fates.set(canonical(uid), at);
  });
  const missing = [...planned]
    .filter(([uid]) => !scheduled.has(uid))
    .map(([uid, at]) => ({ uid: dry.uid[at], name: dry.name[at], text: fateOf(real, fates.get(uid)) }));
  const added = [...scheduled]
    .filter(([uid]) => !planned.has(uid))
    .map(([, at]) => ({ uid: real.uid[at], name: real.name[at], text: "scheduled, and not planned" }));
  return { planned: planned.size, scheduled: scheduled.size, missing, added };
}

function rowsWith(table, status) {
  const found = new Map();
  table.status.forEach((each, at) => each === status && found.set(canonical(table.uid[at]), at));
  return found;
}

function fateOf(table, at) {
  if (at === undefined) return "not in the list any more";
  return table.reason[at] ? `${table.status[at]}: ${table.reason[at]}` : table.status[at];
}
