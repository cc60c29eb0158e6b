// How many seats the deletions have freed: by tenant and week, with the quota and the lists in quarantine.

import { taskAddress } from "./airflow.js";
import { totalLine, weekBars } from "./bars.js";
import { canvas } from "./chart.js";
import { element, number, plural, select } from "./dom.js";
import { heading, shared } from "./heading.js";
import { loadRuns } from "./load.js";
import { inAirflow } from "./parent.js";
import { go, href } from "./route.js";
import { dueOf, figuresOf, looksOf, quotaOf, taskLabel, totalOf, warningsOf, weeksOf } from "./seats_model.js";
import { empty, failure, loading } from "./states.js";
import { time } from "./time.js";

export async function showSeats(body, query, signal) {
  document.title = "Seats - Nexthink deletions";
  const content = element("div", { class: "seats" });
  const show = async (again) => {
    content.replaceChildren(loading("Loading the looks at the inventory"));
    // A ledger counts the deletions of all Dags.
    const found = await loadRuns({ ...shared(query), dag_id: "" }, { signal, again });
    if (!signal.aborted) content.replaceChildren(...overview(found, query));
  };
  const refresh = () =>
    show(true).catch((error) => !signal.aborted && content.replaceChildren(failure(error, refresh)));
  body.replaceChildren(heading(query, refresh), content);
  await show(false);
}

function overview({ reconciles, quarantines, notices }, query) {
  const tenant = query.get("tenant") ?? "";
  const all = looksOf(reconciles);
  const looks = all.filter(({ id }) => tenant === "" || id === tenant);
  const lists = quarantines.filter(({ summary }) => tenant === "" || !summary.instance || summary.instance === tenant);
  return [
    ...noticesOf(notices, looks).map((text) => element("p", { class: "notice" }, text)),
    ...(shared(query).dag_id
      ? [
          element(
            "p",
            { class: "hint" },
            `A ledger counts the deletions of all Dags of its tenant, so ${shared(query).dag_id} is not shown by itself here.`,
          ),
        ]
      : []),
    ...(all.length > 1 || tenant ? [filter(all, tenant, query)] : []),
    ...(looks.length > 0 ? seats(looks, query) : [nothing(all)]),
    ...(lists.length > 0 ? [quarantine(lists)] : []),
  ];
}

function noticesOf({ moreLooks, unreadable }, looks) {
  const found = looks.flatMap((look) => warningsOf(look, Date.now()));
  const unrecorded = looks.filter(({ instance }) => instance === null).length;
  if (unrecorded > 0 && looks.length > 1)
    found.push(
      `${plural(unrecorded, "look")} of an older version of the provider: the tenant is not recorded. If another task looks at the same tenant, its seats count twice in the total.`,
    );
  if (moreLooks) found.push("Only the newest tasks of this period were read. What is older is missing here.");
  if (unreadable)
    found.push(
      `${plural(unreadable, "task")} could not be read: no permission, or stored outside Airflow's database by an XCom backend.`,
    );
  return found;
}

function nothing(all) {
  if (all.length > 0)
    return empty("No look at this tenant in this period.", "Choose another tenant, or a longer period.");
  return empty(
    "No look at the inventory in this period.",
    "Here are the seats that deletions have freed, week by week: the devices that are gone from the inventory of Nexthink, less those that came back.",
    element(
      "span",
      {},
      "Name a ledger on the Nexthink connection (extra ",
      element("code", {}, "ledger_conn_id"),
      "), and let the Dag ",
      element("code", {}, "nexthink_lifecycle_reconcile"),
      " run daily, or another with ",
      element("code", {}, "NexthinkReconcileOperator"),
      ".",
    ),
    "Dags that you may not read are not listed.",
  );
}

function filter(all, tenant, query) {
  const tenants = [["", `All tenants (${number(all.length)})`], ...all.map(({ id, label }) => [id, label])];
  if (tenant && !all.some(({ id }) => id === tenant)) tenants.push([tenant, tenant]);
  const node = select("Tenant", tenants, tenant, (chosen) => go({ ...Object.fromEntries(query), tenant: chosen }));
  return element("div", { class: "tools", role: "group", "aria-label": "Filters" }, node);
}

function seats(looks, query) {
  const weeks = weeksOf(looks);
  const since = weeks.length > 0 ? ` since ${weeks[0].week}` : "";
  return [
    tiles(totalOf(looks), since),
    looksTable(looks, query),
    ...(weeks.length > 0 ? [charts(weeks), weekTable(weeks)] : []),
    ...quotas(looks),
  ];
}

function tiles(total, since) {
  const tile = (label, value, hint) =>
    element(
      "div",
      { class: "tile" },
      element("span", { class: "label" }, label),
      element("b", {}, known(value)),
      element("span", { class: "hint" }, hint),
    );
  return element(
    "section",
    { class: "tiles", "aria-label": "Totals" },
    tile("Seats freed", total.net, `gone less returned${since}, by all Dags`),
    tile("Gone", total.gone, "seats won: devices that a look did not find any more"),
    tile("Returned", total.returned, "seats taken again: devices that came back"),
    tile("Still present", total.still_present, "asked for, and in the inventory at the latest look"),
    tile(
      "Not compared yet",
      total.not_compared,
      "asked for, but newer than the look, in a run that has not ended, or with another kind of uid",
    ),
  );
}

const known = (value) => (value === null || value === undefined ? "–" : number(value));

function figure(value, label, zero = true) {
  return element("td", { class: `figure${zero && value === 0 ? " zero" : ""}`, "data-label": label }, known(value));
}

function head(columns, firstFigure, lastFigure) {
  return element(
    "thead",
    {},
    element(
      "tr",
      {},
      columns.map((label, at) =>
        element("th", { scope: "col", class: at >= firstFigure && at <= lastFigure && "figure" }, label),
      ),
    ),
  );
}

function looksTable(looks, query) {
  const rows = looks.map(({ id, label, instance, entry, summary }) => {
    const figures = figuresOf(summary);
    return element(
      "tr",
      {},
      element(
        "th",
        { scope: "row", class: "name" },
        instance === null
          ? "not recorded"
          : element("a", { href: href({ ...Object.fromEntries(query), tenant: id }) }, label),
      ),
      figure(figures.net, "Seats freed", false),
      figure(figures.gone, "Gone"),
      figure(figures.returned, "Returned"),
      figure(figures.still_present, "Still present"),
      figure(figures.not_compared, "Not compared"),
      figure(summary.devices ?? null, "In the inventory"),
      element("td", { "data-label": "Looked at" }, time(summary.looked_at) || "not recorded"),
      element("td", { "data-label": "By", class: "by" }, element("a", inAirflow(taskAddress(entry)), taskLabel(entry))),
    );
  });
  return element(
    "section",
    { class: "card flush" },
    element("h2", {}, "Latest look at each tenant"),
    element(
      "table",
      { class: "seats-table", "aria-label": "Looks" },
      head(
        [
          "Tenant",
          "Seats freed",
          "Gone",
          "Returned",
          "Still present",
          "Not compared",
          "In the inventory",
          "Looked at",
          "By",
        ],
        1,
        6,
      ),
      element("tbody", {}, rows),
    ),
  );
}

function charts(weeks) {
  const item = (mark, label) =>
    element("li", {}, element("span", { class: `swatch ${mark}`, "aria-hidden": "true" }), label);
  return element(
    "section",
    { class: "card" },
    element("h2", {}, "Weeks"),
    element(
      "ul",
      { class: "legend" },
      item("fill-gone", "Gone"),
      item("fill-returned", "Returned"),
      item("outlined", "Scheduled"),
    ),
    canvas("week-bars", (width) => weekBars(weeks, width)),
    element("h3", {}, "Seats freed in all"),
    canvas("total-line", (width) => totalLine(weeks, width)),
    element(
      "p",
      { class: "hint" },
      "A device counts in the week of the look that found it gone, or there again; a scheduled deletion in the week in which its run started. Weeks are in UTC and begin on Monday.",
    ),
  );
}

function weekTable(weeks) {
  const rows = weeks.toReversed().map(({ week, monday, scheduled, gone, returned, net, total }) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, week),
      element("td", { class: "monday" }, monday),
      [scheduled, gone, returned, net].map((value) => figure(value)),
      figure(total, undefined, false),
    ),
  );
  const sum = (what) => weeks.reduce((all, week) => all + week[what], 0);
  const foot = element(
    "tr",
    {},
    element("th", { scope: "row" }, "All"),
    element("td", { class: "monday" }),
    ["scheduled", "gone", "returned", "net"].map((what) => figure(sum(what))),
    figure(weeks.at(-1).total, undefined, false),
  );
  const columns = ["Week", "From", "Scheduled", "Gone", "Returned", "Net", "In all"];
  const table = element(
    "table",
    { class: "week-table", "aria-label": "Weeks" },
    head(columns, 2, 6),
    element("tbody", {}, rows),
    element("tfoot", {}, foot),
  );
  table.querySelectorAll("th")[1].classList.add("monday");
  return element("section", { class: "card flush weeks", tabindex: 0, "aria-label": "Table of the weeks" }, table);
}

function quotas(looks) {
  const found = looks
    .map((look) => ({ ...look, quota: quotaOf(look.summary) }))
    .filter(({ quota }) => quota !== undefined);
  if (found.length === 0) return [];
  const items = found.map(({ label, quota, summary }) =>
    element(
      "div",
      { class: "quota" },
      element("h3", {}, label),
      quota === null
        ? element("p", { class: "hint" }, "No quota on the connection.")
        : [
            share(quota.used, quota.devices),
            element(
              "p",
              {},
              element("b", {}, `${number(quota.used)} of ${number(quota.devices)}`),
              ` in ${plural(quota.days, "day")}; ${number(quota.left)} left`,
              element("span", { class: "hint" }, ` at ${time(summary.looked_at, { seconds: false })}`),
            ),
          ],
    ),
  );
  return [element("section", { class: "card" }, element("h2", {}, "Quota"), items)];
}

// A bar that is filled in part. Its figures stand beside it as text.
function share(part, whole) {
  const bar = element("span", { class: part > whole ? "part over" : "part" });
  bar.style.width = `${whole > 0 ? Math.min(100, (part / whole) * 100) : 0}%`;
  return element("div", { class: "share", "aria-hidden": "true" }, bar);
}

function quarantine(lists) {
  const sorted = [...lists].sort((one, other) => (one.summary.list_name < other.summary.list_name ? -1 : 1));
  return element(
    "section",
    { class: "card" },
    element("h2", {}, "Quarantine"),
    element("div", { class: "lists" }, sorted.map(list)),
  );
}

function list({ entry, summary }) {
  const fact = (label, value) => element("div", {}, element("dt", {}, label), element("dd", {}, value));
  const { days, others } = dueOf(summary);
  const most = Math.max(1, ...days.map(({ devices }) => devices));
  return element(
    "article",
    { class: "list" },
    element("h3", {}, String(summary.list_name)),
    element(
      "p",
      { class: "hint" },
      summary.instance ? `${summary.instance}, ` : "",
      summary.run_at ? `${time(summary.run_at)}, ` : "",
      element("a", inAirflow(taskAddress(entry)), taskLabel(entry)),
    ),
    element(
      "dl",
      {},
      fact("On the list", known(summary.devices)),
      fact("Due", known(summary.due)),
      fact("Waiting", known(summary.waiting)),
      fact("New", known(summary.marked)),
      fact("Released", known(summary.released)),
      fact("Next due", summary.next_due_at ? time(summary.next_due_at, { seconds: false }) : "–"),
    ),
    days.length > 0 &&
      element(
        "table",
        { class: "due-table", "aria-label": `When devices of ${summary.list_name} can be due` },
        element(
          "thead",
          {},
          element(
            "tr",
            {},
            element("th", { scope: "col" }, "Due from (UTC)"),
            element("th", { scope: "col", class: "figure" }, "Devices"),
            element("td", {}),
          ),
        ),
        element(
          "tbody",
          {},
          days.map(({ day, devices }) =>
            element(
              "tr",
              {},
              element("th", { scope: "row" }, day),
              figure(devices),
              element("td", { class: "wide" }, share(devices, most)),
            ),
          ),
        ),
      ),
    others > 0 &&
      days.length > 0 &&
      element("p", { class: "hint" }, `${plural(others, "more device")} waiting, on days that are not listed.`),
  );
}
