// The seats that deletions have freed: what reconciling has found, week by week; the quarantine.

import { taskAddress } from "./airflow.js";
import { element, number, plural, svg } from "./dom.js";
import { heading, shared } from "./heading.js";
import { loadRuns } from "./load.js";
import { inAirflow } from "./parent.js";
import { go } from "./route.js";
import { newestLooks, weeksOf } from "./seats_model.js";
import { empty, loading } from "./states.js";
import { time, zoneLabel } from "./time.js";

const OLD_MS = 3 * 86_400_000;

export async function showSeats(body, query, signal) {
  const content = element("div", { class: "runs" }, loading("Loading"));
  const show = async (again) => {
    const found = await loadRuns(shared(query), { signal, again });
    if (!signal.aborted) content.replaceChildren(...seats(found, query));
  };
  body.replaceChildren(
    heading(query, () => show(true)),
    content,
  );
  await show(false);
}

function seats({ reconciles, quarantines }, query) {
  const all = newestLooks(reconciles);
  const tenants = all.map(({ tenant }) => tenant);
  const tenant = tenants.includes(query.get("tenant")) ? query.get("tenant") : "";
  const looks = all.filter((look) => tenant === "" || look.tenant === tenant);
  const content = looks.length > 0 ? [tiles(looks), ...looks.map(lookCard), chartCard(weeksOf(looks))] : [nothing()];
  return [
    tenants.length > 1 && tenantFilter(tenants, tenant, query),
    ...content,
    quarantines.length > 0 && quarantineCard(quarantines),
  ].filter(Boolean);
}

const nothing = () =>
  empty(
    "No look at the inventory in this period.",
    "NexthinkReconcileOperator compares the deletions in the ledger with Nexthink's inventory. Its weeks are shown here once it has run.",
    "The Dag nexthink_lifecycle_reconcile does that every day. It needs a ledger: the extra ledger_conn_id of the connection.",
  );

function tenantFilter(tenants, chosen, query) {
  const choose = (event) => go({ ...Object.fromEntries(query), tenant: event.target.value });
  const select = element(
    "select",
    { "aria-label": "Tenant", onchange: choose },
    element("option", { value: "" }, "All tenants"),
  );
  for (const each of tenants)
    select.append(element("option", { value: each, selected: each === chosen }, each || "not named"));
  return element("div", { class: "tools" }, select);
}

function tiles(looks) {
  const sum = (name) => looks.reduce((total, { summary }) => total + (Number(summary[name]) || 0), 0);
  const tile = (label, value, hint) =>
    element(
      "div",
      { class: "tile" },
      element("span", { class: "label" }, label),
      element("b", {}, number(value)),
      element("span", { class: "hint" }, hint),
    );
  return element(
    "section",
    { class: "tiles", "aria-label": "Seats" },
    tile("Seats freed, net", sum("net"), "gone, less those that have returned"),
    tile("Gone", sum("seats_won"), "no longer in the inventory"),
    tile("Returned", sum("seats_returned"), "gone once, and in the inventory again"),
    tile("Still present", sum("still_present"), "to be deleted, and still in the inventory"),
    tile("Not compared", sum("not_compared"), "newer than the look, or of another kind of uid"),
  );
}

function lookCard({ tenant, entry, summary }) {
  const warnings = [];
  if (Date.now() - Date.parse(summary.looked_at) > OLD_MS) warnings.push("The latest look is older than three days.");
  if (summary.looks_too_young)
    warnings.push("The ledger knows less than it did once: was it restored from an older backup, or replaced?");
  return element(
    "section",
    { class: "card look" },
    element("h2", {}, tenant || "Tenant"),
    element(
      "p",
      {},
      "Latest look: ",
      element("a", inAirflow(taskAddress(entry)), time(summary.looked_at)),
      ` ${zoneLabel()}, ${plural(summary.devices, "device")} in the inventory.`,
    ),
    summary.quota && quotaBar(summary.quota),
    warnings.map((text) => element("p", { class: "notice" }, text)),
  );
}

function quotaBar({ devices, days, used, left }) {
  return element(
    "p",
    { class: "quota" },
    element("progress", { max: devices, value: Math.min(used, devices), "aria-label": "Quota used" }),
    ` Quota: ${number(used)} of ${number(devices)} in ${plural(days, "day")}, ${number(left)} left.`,
  );
}

function chartCard(weeks) {
  const canvas = element("div", { class: "canvas" });
  new ResizeObserver(() => canvas.replaceChildren(chart(weeks, Math.max(280, canvas.clientWidth)))).observe(canvas);
  const columns = ["Week", "Scheduled", "Gone", "Returned", "Net", "Net in all"];
  const names = ["scheduled", "gone", "returned", "net", "cumulative"];
  const row = (each) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, each.week),
      names.map((name) => element("td", { class: "figure" }, number(each[name]))),
    );
  return element(
    "section",
    { class: "card" },
    element("h2", {}, "Seats by week (UTC)"),
    element(
      "ul",
      { class: "legend" },
      element("li", {}, element("span", { class: "swatch fill-scheduled" }), "Gone"),
      element("li", {}, element("span", { class: "swatch fill-attention" }), "Returned"),
    ),
    canvas,
    element(
      "div",
      { class: "weeks" },
      element(
        "table",
        { "aria-label": "Seats by week" },
        element(
          "thead",
          {},
          element(
            "tr",
            {},
            columns.map((label, at) => element("th", { scope: "col", class: at > 0 && "figure" }, label)),
          ),
        ),
        element("tbody", {}, [...weeks].reverse().map(row)),
      ),
    ),
  );
}

const HEIGHT = 200;
const LABELS = 22;

// Gone upwards and returned downwards, on one scale.
function chart(weeks, width) {
  const up = Math.max(1, ...weeks.map(({ gone }) => gone));
  const down = Math.max(0, ...weeks.map(({ returned }) => returned));
  const scale = (HEIGHT - LABELS - 8) / (up + down);
  const zero = 4 + up * scale;
  const step = width / Math.max(1, weeks.length);
  const bar = Math.min(28, step * 0.72);
  const every = Math.max(1, Math.ceil(70 / step));
  const bars = weeks.map(({ week, gone, returned }, at) => {
    const x = step * (at + 0.5) - bar / 2;
    return svg(
      "g",
      {},
      svg("title", {}, `${week}: ${number(gone)} gone, ${number(returned)} returned`),
      svg("rect", { class: "fill-scheduled", x, y: zero - gone * scale, width: bar, height: gone * scale }),
      svg("rect", { class: "fill-attention", x, y: zero, width: bar, height: returned * scale }),
      at % every === 0 && svg("text", { x: x + bar / 2, y: HEIGHT - 6, "text-anchor": "middle" }, week),
    );
  });
  return svg(
    "svg",
    { width, height: HEIGHT, role: "img", "aria-label": "Seats by week; the table below has the figures" },
    svg("g", { class: "grid" }, svg("line", { x1: 0, x2: width, y1: zero, y2: zero })),
    ...bars,
  );
}

const dueByDay = ({ due_by_day: days }) =>
  days?.length > 0 &&
  element(
    "details",
    {},
    element("summary", {}, "By day (UTC)"),
    element(
      "ul",
      {},
      days.map(({ day, devices }) => element("li", {}, `${day}: ${plural(devices, "device")}`)),
    ),
  );

function quarantineCard(quarantines) {
  const row = ({ entry, summary }) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, element("a", inAirflow(taskAddress(entry)), summary.list_name)),
      ["waiting", "due", "released"].map((name) =>
        element("td", { class: "figure" }, number(Number(summary[name]) || 0)),
      ),
      element("td", {}, summary.next_due_at ? time(summary.next_due_at) : "none", dueByDay(summary)),
    );
  return element(
    "section",
    { class: "card flush" },
    element("h2", { class: "padded" }, "In quarantine"),
    element(
      "table",
      { "aria-label": "In quarantine" },
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          element("th", { scope: "col" }, "List"),
          ["Waiting", "Due in the latest run", "Released"].map((label) =>
            element("th", { scope: "col", class: "figure" }, label),
          ),
          element("th", { scope: "col" }, "Next due"),
        ),
      ),
      element("tbody", {}, quarantines.map(row)),
    ),
  );
}
