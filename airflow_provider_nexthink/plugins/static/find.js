// What happened to a device: its rows in all runs of the period, the newest first.

import { xcom } from "./airflow.js";
import { rowAddress } from "./attention.js";
import { answerTo, byWhom, canonicalUid, matcher, newestLooks, shellWord } from "./devices.js";
import { element, number, plural } from "./dom.js";
import { grid } from "./grid.js";
import { heading, shared } from "./heading.js";
import { PERIODS, chunksLeft, loadRuns } from "./load.js";
import { MAX_ROWS, earlierTries, inParallel, manifestOrNull, outcomeOrNull, tableOrNull } from "./reading.js";
import { href } from "./route.js";
import { outcomeAddress } from "./runs.js";
import { newestFirst, sentNothing, whoOf } from "./run.js";
import { empty, failure, loading } from "./states.js";
import { STATUSES, groupOf } from "./statuses.js";
import { sizeOf } from "./table.js";
import { time } from "./time.js";

const MAX_HITS = 500;
const MAX_NAMED = 12;
const FIRST_FILES = 5; // named before the rest is asked for
const LOOKS = {
  still_present: "Still present",
  returned: "Returned",
  set_up_anew: "Gone, and another device has its name",
};

export async function showFind(body, query, signal) {
  const text = (query.get("q") ?? "").trim();
  document.title = `${text || "Find a device"} - Nexthink deletions`;
  const content = element("div", { class: "found" });
  if (text === "") {
    body.replaceChildren(heading(query, null), content);
    content.append(empty("Find a device", "Type a part of its name or uid into the field at the top."));
    return;
  }
  const show = async (again) => {
    content.replaceChildren(loading("Loading the runs"));
    const found = await loadRuns(shared(query), { signal, again });
    if (!signal.aborted) await search(content, found, text, shared(query), signal);
  };
  const refresh = () =>
    show(true).catch((error) => !signal.aborted && content.replaceChildren(failure(error, refresh)));
  body.replaceChildren(heading(query, refresh), content);
  await show(false);
}

async function search(content, { runs, reconciles, notices }, text, common, signal) {
  const withSummary = runs.filter(({ summary }) => summary !== null);
  const isEmpty = ({ summary }) => summary.requested === 0 || sentNothing(summary);
  const state = {
    text,
    common,
    notices,
    hits: [],
    looks: [],
    searched: 0,
    of: 0,
    unread: [],
    files: [], // runs whose tables are in files
    large: withSummary.filter((run) => isLarge(run) && !run.may_have_file),
    skipped: runs.filter((run) => run.summary === null || sentNothing(run.summary)),
  };
  const view = foundView(state);
  const searchIn = async (chosen) => {
    state.of += chosen.length;
    view.draw(false);
    await inParallel(
      chosen,
      async (run) => {
        await searchRun(state, run, signal);
        view.draw(false);
      },
      { signal, enough: () => state.hits.length >= MAX_HITS },
    );
    view.draw(true);
  };
  const searchLarge = () => {
    const { large } = state;
    state.large = [];
    state.isLargeAsked = true;
    return searchIn(large).catch((error) => !signal.aborted && content.replaceChildren(failure(error, null)));
  };
  view.onLarge(searchLarge);
  state.looks = await searchLooks(reconciles, text, signal);
  content.replaceChildren(view.node);
  await searchIn(withSummary.filter((run) => (!isLarge(run) || run.may_have_file) && !isEmpty(run)));
}

const isLarge = ({ summary }) => summary.requested > MAX_ROWS;

async function searchRun(state, run, signal) {
  const isUnasked = isLarge(run) && !state.isLargeAsked;
  const { table: whole, manifest } = isUnasked
    ? { table: null, manifest: await manifestOrNull(run, signal) }
    : await outcomeOrNull(run, signal);
  if (isUnasked && !manifest) {
    state.large.push(run);
    state.of -= 1;
    return;
  }
  const hasRows = !manifest || manifest.unscheduled;
  const table = whole ?? (hasRows ? await tableOrNull(run, "unscheduled", signal) : null);
  if (manifest) state.files.push({ run, path: manifest.path, isPart: table !== null });
  else state.searched += 1;
  if (!manifest && !whole) state.unread.push({ run, isPart: table !== null });
  const matches = matcher(state.text);
  const found = [];
  for (const each of [table, await earlierTries(run, signal)].filter(Boolean)) {
    for (let at = 0; at < sizeOf(each) && found.length < MAX_HITS; at += 1) {
      if (matches(each.uid[at], each.name[at]))
        found.push({
          run,
          uid: each.uid[at],
          name: each.name[at],
          status: each.status[at],
          reason: each.reason[at] ?? null,
        });
    }
  }
  if (found.length > 0) state.hits = [...state.hits, ...found].sort((one, other) => newestFirst(one.run, other.run));
}

// The devices in the newest look at the inventory of each tenant.
async function searchLooks(reconciles, text, signal) {
  const matches = matcher(text);
  const found = [];
  const work = async ({ entry, summary, key }) => {
    const rows = await xcom(entry, key, signal).catch((error) => (signal.aborted ? Promise.reject(error) : null));
    if (!Array.isArray(rows)) return;
    const at = summary.looked_at ?? entry.timestamp;
    for (const row of rows)
      if (row && matches(row.uid, row.name))
        found.push({ key, at, tenant: summary.instance ?? null, uid: row.uid, name: row.name });
  };
  const keys = newestLooks(reconciles).flatMap((look) =>
    Object.keys(LOOKS)
      .filter((key) => look.summary[key] !== 0)
      .map((key) => ({ ...look, key })),
  );
  await inParallel(keys, work, { signal });
  return found;
}

function foundView(state) {
  const answer = element("section", { class: "card answer", role: "status", "aria-label": "Answer" });
  const progress = element("p", { class: "hint progress" });
  const notice = element("div", { class: "notices" });
  const table = grid(
    columns((at) => state.hits[at]),
    "Rows of the device",
  );
  table.node.classList.add("find-grid");
  const card = element("div", { class: "card flush table-card" }, table.node);
  let onLarge = () => {};

  const draw = (isDone) => {
    const { hits, searched, of, large, files } = state;
    const parts = files.filter(({ isPart }) => isPart).length;
    const isCut = hits.length >= MAX_HITS;
    progress.textContent = isDone
      ? `Searched ${number(searched)} of ${plural(of + large.length, "run")}${parts > 0 ? `, ${number(parts)} in part` : ""}${hits.length > 0 ? `: ${plural(Math.min(hits.length, MAX_HITS), "row")}` : ""}`
      : `Searched ${number(searched)} of ${plural(of, "run")}`;
    const next = element("div", {}, answerNodes(state, isDone));
    if (!next.isEqualNode(answer.firstChild)) answer.replaceChildren(next); // a screen reader reads it once
    answer.hidden = next.childElementCount === 0;
    card.hidden = hits.length === 0;
    const { scrollTop } = table.node;
    table.show(hits.slice(0, MAX_HITS).map((_, at) => at));
    table.node.scrollTop = scrollTop;
    if (!isDone) return;
    const texts = noticesOf(state, isCut);
    const more =
      large.length > 0 &&
      element(
        "p",
        { class: "notice" },
        `${plural(large.length, "table")} of more than ${number(MAX_ROWS)} rows: not searched. `,
        element(
          "button",
          { type: "button", onclick: () => onLarge() },
          large.length > 1 ? "Search them, too" : "Search it, too",
        ),
      );
    notice.replaceChildren(...texts, filesNotice(state.files) || "", more || "");
  };
  return {
    node: element("div", { class: "found" }, answer, progress, notice, card),
    draw,
    onLarge: (call) => {
      onLarge = call;
    },
  };
}

function noticesOf({ notices, hits, unread, skipped, searched }, isCut) {
  const found = [];
  if (isCut)
    found.push([
      `Only the newest ${number(MAX_HITS)} rows are shown, of ${plural(searched, "run")}: type more of the name.`,
    ]);
  if (notices.chunks) found.push([`${chunksLeft(notices.chunks)} They are not searched.`]);
  if (notices.more) found.push(["Only the newest runs of this period are searched: choose a shorter period."]);
  if (notices.unreadable)
    found.push([
      `${plural(notices.unreadable, "run")} could not be read: no permission, or stored outside Airflow's database by an XCom backend.`,
    ]);
  const parts = unread.filter(({ isPart }) => isPart).length;
  if (parts)
    found.push([
      `Of ${plural(parts, "run")}, only the rows that need attention could be searched: the whole table cannot be read here.`,
    ]);
  if (unread.length > parts)
    found.push([`${plural(unread.length - parts, "run")} could not be searched: the table cannot be read here.`]);
  if (hits.length === 0 && skipped.length)
    found.push([
      `${plural(skipped.length, "run")} without a table: blocked, failed before the first request, or not ended. Whether the device was in their lists is not known here.`,
    ]);
  return found.map((parts_) => element("p", { class: "notice" }, ...parts_));
}

// The runs whose tables are in files. The newest first.
function filesNotice(files) {
  if (files.length === 0) return null;
  const items = [...files]
    .sort((one, other) => newestFirst(one.run, other.run))
    .map(({ run, path }) =>
      element(
        "li",
        {},
        element("a", { href: outcomeAddress(run) }, `${taskLabel(run)}, ${time(run.when, { seconds: false })}`),
        ": ",
        element("code", { class: "path" }, path),
      ),
    );
  const rest = items.slice(FIRST_FILES);
  const what =
    files.length === 1 ? "1 run keeps its table in a file" : `${number(files.length)} runs keep their tables in files`;
  const isPart = files.some((each) => each.isPart);
  return element(
    "div",
    { class: "notice files" },
    element(
      "p",
      {},
      `${what}: not searched${isPart ? ", except for the rows that need attention (at most 1,000 of a run)" : ""}.`,
    ),
    element("ul", {}, items.slice(0, FIRST_FILES)),
    rest.length > 0 &&
      element("details", {}, element("summary", {}, `${number(rest.length)} more`), element("ul", {}, rest)),
  );
}

function answerNodes({ text, common, hits, looks, files }, isDone) {
  const { devices, last, planned } = answerTo(text, hits);
  if (devices.length === 0) {
    const lines = looks.slice(0, MAX_NAMED).map(lookLine);
    const unsure = files.length > 0 && element("p", {}, "It may be in a table that is in a file: see below.");
    return isDone
      ? [element("h2", {}, `No row of "${text}"`), ...lines, unsure, ...elsewhere(text, common)].filter(Boolean)
      : [];
  }
  if (devices.length > 1)
    return [
      element("h2", {}, `${plural(devices.length, "device")} match${isDone ? "" : " so far"}`),
      chooser(devices, common),
    ];
  const [device] = devices;
  const own = looks.filter(({ uid }) => canonicalUid(uid) === canonicalUid(device.uid));
  return [
    element("h2", {}, String(device.name ?? device.uid ?? "")),
    last ? element("p", {}, "Last: ", ...rowWords(last)) : element("p", {}, "No real run has a row of it."),
    planned && element("p", {}, last ? "Since then in a dry run: " : "In a dry run: ", ...rowWords(planned)),
    isDone &&
      isFileNewer(files, device, last) &&
      element("p", {}, "A newer run may have it, too: its table is in a file, see below."),
    ...own.map(lookLine),
  ].filter(Boolean);
}

const isFileNewer = (files, { tenant }, last) =>
  files.some(
    ({ run }) => !run.is_dry && run.tenant === tenant && (!last || Date.parse(run.when) > Date.parse(last.run.when)),
  );

// "SCHEDULED on 2026-11-22 00:00 by anna, TICKET-1"
function rowWords(hit) {
  const { run, status, reason } = hit;
  const why = run.summary.reason;
  return [
    element("b", { class: `text-${groupOf[status] ?? ""}`, title: STATUSES[status] }, status),
    reason ? ` (${reason})` : "",
    " on ",
    element("a", { href: rowAddress(hit) }, time(run.when, { seconds: false })),
    [byWhom(run) && ` ${byWhom(run)}`, why && `, ${why}`].filter(Boolean).join(""),
  ];
}

const lookLine = ({ key, at, tenant, name }) =>
  element(
    "p",
    {},
    element("b", {}, LOOKS[key]),
    ` at the latest look at the inventory, ${time(at, { seconds: false })}${tenant ? ` (${tenant})` : ""}: ${name}`,
  );

function chooser(devices, common) {
  const item = ({ uid, name, tenant }) =>
    element(
      "li",
      {},
      element(
        "a",
        {
          href: href({ ...common, view: "find", q: String(uid || name || "") }),
          title: [uid, tenant].filter(Boolean).join(", "),
        },
        String(name ?? uid ?? ""),
      ),
    );
  return element(
    "ul",
    { class: "choices" },
    devices.slice(0, MAX_NAMED).map(item),
    devices.length > MAX_NAMED &&
      element("li", { class: "hint" }, `and ${number(devices.length - MAX_NAMED)} more: type more of the name`),
  );
}

function elsewhere(text, common) {
  const longest = Object.keys(PERIODS).at(-1);
  return [
    common.days !== longest &&
      element(
        "p",
        {},
        "Search a longer period: ",
        element(
          "a",
          { href: href({ ...common, view: "find", days: longest, q: text }) },
          PERIODS[longest].toLowerCase(),
        ),
      ),
    common.dag_id &&
      element(
        "p",
        {},
        "Search ",
        element("a", { href: href({ ...common, view: "find", dag_id: "", q: text }) }, "all Dags"),
        `, not only ${common.dag_id}.`,
      ),
    element(
      "p",
      {},
      "If the connection has a ledger, that remembers longer than Airflow. On a machine with the provider, with the connection's id:",
    ),
    element(
      "pre",
      {},
      element("code", {}, `python -m airflow_provider_nexthink ledger history nexthink_default ${shellWord(text)}`),
    ),
  ].filter(Boolean);
}

function columns(hitAt) {
  const text = (name, label, value) => ({
    name,
    label,
    cell: (at) => element("span", { title: value(hitAt(at)) }, value(hitAt(at))),
  });
  return [
    {
      name: "when",
      label: "Run",
      cell: (at) => element("a", { href: rowAddress(hitAt(at)) }, time(hitAt(at).run.when)),
    },
    {
      name: "status",
      label: "Status",
      cell: (at) =>
        element(
          "span",
          { class: `status text-${groupOf[hitAt(at).status] ?? ""}`, title: STATUSES[hitAt(at).status] },
          String(hitAt(at).status),
        ),
    },
    text("name", "Name", ({ name }) => String(name ?? "")),
    text("reason", "Reason", ({ reason }) => String(reason ?? "")),
    text("who", "Who and why", ({ run }) => [whoOf(run), run.summary.reason].filter(Boolean).join(": ")),
    { name: "task", label: "Task", cell: (at) => taskCell(hitAt(at).run) },
    text("tenant", "Tenant", ({ run }) => run.tenant ?? ""),
    text("uid", "uid", ({ uid }) => String(uid ?? "")),
  ];
}

const taskLabel = (run) => `${run.dag}, ${run.task}${run.map_index >= 0 ? ` [${run.label ?? run.map_index}]` : ""}`;

function taskCell(run) {
  return element(
    "span",
    {},
    element("a", { href: outcomeAddress(run) }, taskLabel(run)),
    run.is_dry && element("span", { class: "badge" }, "dry run"),
  );
}
