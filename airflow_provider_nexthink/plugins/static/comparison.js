// Shows a dry run beside the real run that followed it.

import { compare } from "./compare.js";
import { element, number, plural } from "./dom.js";
import { href } from "./route.js";
import { dryRunOf, realRunOf } from "./run.js";
import { readTable } from "./table.js";
import { time } from "./time.js";

const SHOWN = 200;

const addressOf = ({ dag_id, run_id, task_id, map_index }) => href({ dag_id, run_id, task_id, map_index });

// Adds the comparison to a node, once the other runs are known; nothing where there is none to compare with.
export async function showComparison(node, run, runsSoon, signal) {
  if (!run.summary) return;
  const runs = await runsSoon.catch(() => []); // optional: the page works without it
  const other = run.is_dry ? realRunOf(run, runs) : dryRunOf(run, runs);
  if (!other || signal.aborted) return;
  const [dry, real] = run.is_dry ? [run, other] : [other, run];
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
      button,
      details,
    ),
  );
}

async function showDifferences(node, dry, real, signal) {
  const [before, after] = await Promise.all([
    readTable(dry, "return_value", signal),
    readTable(real, "return_value", signal),
  ]).catch(() => [null, null]);
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
