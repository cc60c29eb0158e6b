// Shows a dry run beside the real run that followed it.

import { compare } from "./compare.js";
import { element, number, plural } from "./dom.js";
import { countRows } from "./manifest.js";
import { href } from "./route.js";
import { dryRunOf, realRunOf } from "./run.js";
import { readManifest, readOutcome } from "./table.js";
import { time } from "./time.js";

export const COMPARED_DAYS = 28;
const DAY_MS = 86_400_000;
const SHOWN = 200;

const addressOf = ({ dag_id, run_id, task_id, map_index }) => href({ dag_id, run_id, task_id, map_index });

// Adds the comparison to a node, once the other runs are known; nothing where there is none to compare with. The runs are
// those of the last COMPARED_DAYS.
export async function showComparison(node, run, runsSoon, signal) {
  if (!run.summary) return;
  const runs = await runsSoon.catch(() => []); // optional: the page works without it
  const other = run.is_dry ? realRunOf(run, runs) : dryRunOf(run, runs);
  if (signal.aborted) return;
  if (!other) {
    if (Date.parse(run.when) < Date.now() - COMPARED_DAYS * DAY_MS)
      node.replaceChildren(
        element(
          "p",
          { class: "hint" },
          "Dry runs are compared with real ones for the last 4 weeks only, and this run is older.",
        ),
      );
    return;
  }
  const [dry, real] = run.is_dry ? [run, other] : [other, run];
  const isInFile = await Promise.all([dry, real].map((each) => hasManifest(each, signal)));
  if (signal.aborted) return;
  const link = element(
    "a",
    { href: addressOf(other) },
    `${run.is_dry ? "the real run" : "the dry run"} of ${time(other.when)}`,
  );
  const details = element("div", { class: "differences" });
  const button = element(
    "button",
    { type: "button", onclick: () => showDifferences(details, dry, real, signal) },
    "Compare the devices",
  );
  const difference = real.counts.scheduled - dry.counts.planned;
  const told = difference === 0 ? "as many" : `difference ${difference > 0 ? "+" : ""}${number(difference)}`;
  node.replaceChildren(
    element(
      "section",
      { class: "comparison card", "aria-label": "Dry run and real run" },
      element(
        "p",
        {},
        run.is_dry ? "Followed by " : "Planned in ",
        link,
        `: planned ${number(dry.counts.planned)}, scheduled ${number(real.counts.scheduled)}, ${told}.`,
      ),
      ...(isInFile.includes(true) ? countsOf(dry, real, isInFile) : [button, details]),
    ),
  );
}

const hasManifest = (run, signal) =>
  readManifest(run, signal).then(
    (manifest) => manifest !== null,
    () => false,
  );

// Instead of the devices: the counts of the two runs.
function countsOf(dry, real, [isDryInFile, isRealInFile]) {
  const whose =
    isDryInFile && isRealInFile
      ? "both tables are in files"
      : `the table of the ${isDryInFile ? "dry" : "real"} run is in a file`;
  const rows = countRows(dry.summary, real.summary);
  const head = (label) => element("th", { scope: "col" }, label);
  return [
    element("p", { class: "hint" }, `Only the counts are compared, not the devices: ${whose}.`),
    element(
      "table",
      { class: "count-table", "aria-label": "Counts of the dry run and the real run" },
      element("thead", {}, element("tr", {}, ["Status", "Dry run", "Real run"].map(head))),
      element(
        "tbody",
        {},
        rows.map(([status, ...counts]) =>
          element(
            "tr",
            {},
            element("th", { scope: "row" }, status),
            counts.map((count) => element("td", {}, number(count))),
          ),
        ),
      ),
    ),
  ];
}

async function showDifferences(node, dry, real, signal) {
  const [before, after] = await Promise.all(
    [dry, real].map(async (run) => (await readOutcome(run, signal)).table),
  ).catch(() => [null, null]);
  if (signal.aborted) return;
  if (!before || !after) {
    node.replaceChildren(element("p", {}, "The tables of the two runs cannot be read here."));
    return;
  }
  const { missing, added } = compare(before, after);
  if (missing.length + added.length === 0) node.replaceChildren(element("p", {}, "The devices are the same."));
  else
    node.replaceChildren(
      ...[listOf("Planned, and not scheduled", missing), listOf("Scheduled, and not planned", added)].filter(Boolean),
    );
}

function listOf(title, rows) {
  if (rows.length === 0) return null;
  const more = rows.length > SHOWN && element("li", {}, `and ${plural(rows.length - SHOWN, "more device")}`);
  return element(
    "div",
    {},
    element("h3", {}, `${title}: ${number(rows.length)}`),
    element(
      "ul",
      {},
      rows.slice(0, SHOWN).map(({ uid, name, text }) => element("li", {}, `${name ?? ""} (${uid ?? ""}): ${text}`)),
      more,
    ),
  );
}
