// What needs somebody, over all runs of a period: runs as a whole, and devices, each once with its newest state.

import { canRunAgain, noRunAgain, showRunAgain } from "./again.js";
import { copyText, tabSeparated } from "./clipboard.js";
import { AttentionList, attentionIn, attentionRows, byWhom, matcher, openRuns, reasonsOf } from "./devices.js";
import { element, number, options, plural } from "./dom.js";
import { grid } from "./grid.js";
import { heading, shared } from "./heading.js";
import { chunksLeft, loadRuns } from "./load.js";
import { describePart } from "./manifest.js";
import { inAirflow } from "./parent.js";
import { MAX_ROWS, earlierTries, inParallel, manifestOrNull, outcomeOrNull, tableOrNull } from "./reading.js";
import { remedyOf } from "./remedies.js";
import { change, href, parameters } from "./route.js";
import { STATES, explainState, sentNothing } from "./run.js";
import { outcomeAddress } from "./runs.js";
import { empty, failure, loading } from "./states.js";
import { STATUSES, groupOf } from "./statuses.js";
import { sizeOf } from "./table.js";
import { time } from "./time.js";

const FIRST = 6; // entries shown before the rest is asked for

export async function showAttention(body, query, signal) {
  document.title = "Attention - Nexthink deletions";
  const content = element("div", { class: "attention" });
  const show = async (again) => {
    content.replaceChildren(loading("Loading the runs"));
    const [{ runs, notices }, canRun] = await Promise.all([loadAll(shared(query), signal, again), canRunAgain(signal)]);
    if (!signal.aborted) await fill(content, { runs, notices, canRun, dagId: shared(query).dag_id }, signal);
  };
  const refresh = () =>
    show(true).catch((error) => !signal.aborted && content.replaceChildren(failure(error, refresh)));
  body.replaceChildren(heading(query, refresh), content);
  await show(false);
}

// The runs of all Dags: the newer state of a device may come from another one.
async function loadAll({ days, dag_id }, signal, again) {
  const all = await loadRuns({ days, dag_id: "" }, { signal, again });
  if (!dag_id || !(all.notices.more || all.notices.chunks)) return all;
  const own = await loadRuns({ days, dag_id }, { signal, again }); // which the newest of all may not include
  const known = new Set(all.runs.map(({ key }) => key));
  return { ...all, runs: [...all.runs, ...own.runs.filter(({ key }) => !known.has(key))] };
}

async function fill(content, { runs, notices, canRun, dagId }, signal) {
  const isOwn = (run) => !dagId || run.dag_id === dagId;
  const ended = runs.filter((run) => !run.is_dry && run.summary && run.state !== "running");
  const bad = ended.filter((run) => isOwn(run) && Object.values(attentionIn(run)).some(Boolean));
  const open = openRuns(runs).filter(({ run }) => isOwn(run));
  const running = runs.filter((run) => isOwn(run) && run.state === "running").length;
  const list = new AttentionList();
  const view = devicesView(canRun);
  const progress = element("p", { class: "hint progress" });
  const notice = element("div", { class: "notices" });
  content.replaceChildren(notice, open.length > 0 ? openSection(open) : "", progress, view.node);
  view.node.hidden = bad.length === 0;

  const unread = [];
  const capped = []; // runs of whose rows that need attention only the first are in XCom
  const report = (what, done, of) => {
    progress.textContent = `${what}: ${number(done)} of ${plural(of, "run")}`;
  };
  let done = 0;
  report("Reading the rows that need attention", done, bad.length);
  await inParallel(
    bad,
    async (run) => {
      const wanted = attentionIn(run);
      const tables = [
        wanted.unscheduled && (await tableOrNull(run, "unscheduled", signal)),
        wanted.earlier && (await earlierTries(run, signal)),
      ];
      for (const table of tables) if (table) list.add(run, table);
      if (tables[0] && sizeOf(tables[0]) < attentionRows(run))
        capped.push({ run, rows: sizeOf(tables[0]), file: (await manifestOrNull(run, signal))?.unscheduled ?? null });
      // A run that sent nothing need not have tables: it is in the list of runs.
      if (tables.includes(null) && !sentNothing(run.summary)) unread.push(run);
      done += 1;
      report("Reading the rows that need attention", done, bad.length);
      view.update(list.rows(), true);
    },
    { signal },
  );

  const newer = runs.filter((run) => list.needs(run));
  const unchecked = newer.filter((run) => run.summary.requested > MAX_ROWS);
  const inFiles = [];
  const toCheck = newer.filter((run) => run.summary.requested <= MAX_ROWS);
  done = 0;
  report("Checking newer runs", done, toCheck.length);
  await inParallel(
    toCheck,
    async (run) => {
      const { table, manifest } = await outcomeOrNull(run, signal);
      if (manifest) inFiles.push(run);
      else if (!table) unchecked.push(run);
      const isChanged = [table, await earlierTries(run, signal)].filter(Boolean).map((each) => list.settle(run, each));
      if (isChanged.includes(true)) view.update(list.rows(), true);
      done += 1;
      report("Checking newer runs", done, toCheck.length);
    },
    { signal },
  );

  progress.textContent = "";
  const rows = list.rows();
  view.update(rows, false);
  view.node.hidden = rows.length === 0;
  notice.replaceChildren(...noticesOf({ notices, count: runs.length, running, unread, capped, unchecked, inFiles }));
  const isPart = unread.length + capped.length > 0;
  if (rows.length === 0 && open.length === 0 && !isPart) content.append(nothing(bad.length > 0));
  else if (rows.length === 0)
    content.append(
      element(
        "p",
        { class: "nothing" },
        isPart ? "No other device is known here to need attention." : "No device needs attention.",
      ),
    );
}

const nothing = (isSettled) =>
  empty(
    "Nothing needs attention",
    isSettled
      ? "Every device that needed attention in this period was scheduled or excluded by a newer run."
      : "In this period, no run was blocked or failed, and each device was scheduled or kept back.",
  );

function noticesOf({ notices, count, running, unread, capped, unchecked, inFiles }) {
  const found = [];
  if (notices.chunks) found.push([`${chunksLeft(notices.chunks)} They are not looked at.`]);
  if (notices.more)
    found.push([`Only the newest ${plural(count, "run")} of this period are looked at: choose a shorter period.`]);
  if (notices.unreadable)
    found.push([
      `${plural(notices.unreadable, "run")} could not be read: no permission, or stored outside Airflow's database by an XCom backend.`,
    ]);
  if (running) found.push([`${plural(running, "run")} in progress or waiting for a retry: not in this list yet.`]);
  if (unread.length) found.push(["Rows that could not be read here, of ", ...links(unread), "."]);
  for (const { run, rows, file } of capped.slice(0, FIRST))
    found.push([
      `Only ${describePart(rows, attentionRows(run))} that need attention are listed, of `,
      ...links([run]),
      ...(file
        ? [": all are in ", element("code", { class: "path" }, file.path)]
        : [": the others cannot be read here"]),
      ".",
    ]);
  if (capped.length > FIRST)
    found.push([
      "Likewise only the first rows that need attention, of ",
      ...links(capped.slice(FIRST).map(({ run }) => run)),
      ".",
    ]);
  if (inFiles.length)
    found.push([
      "Not checked for a newer state of these devices, since the table is in a file: ",
      ...links(inFiles),
      ".",
    ]);
  if (unchecked.length)
    found.push([
      `Not checked for a newer state of these devices, since the table is too large (more than ${number(MAX_ROWS)} rows) or cannot be read: `,
      ...links(unchecked),
      ".",
    ]);
  return found.map((parts) => element("p", { class: "notice" }, ...parts));
}

function links(runs) {
  const shown = runs
    .slice(0, FIRST)
    .flatMap((run, index) => [
      index > 0 && ", ",
      element("a", { href: outcomeAddress(run) }, `${run.dag} ${time(run.when, { seconds: false })}`),
      run.summary?.requested > MAX_ROWS && ` (${plural(run.summary.requested, "row")})`,
    ]);
  return runs.length > FIRST ? [...shown, ` and ${number(runs.length - FIRST)} more`] : shown;
}

function openSection(open) {
  const first = open.slice(0, FIRST).map(openEntry);
  const rest = open.slice(FIRST).map(openEntry);
  return element(
    "section",
    { class: "card open-runs", "aria-label": "Runs" },
    element("h2", {}, "Runs"),
    element("ul", {}, first),
    rest.length > 0 &&
      element("details", {}, element("summary", {}, `${number(rest.length)} more`), element("ul", {}, rest)),
  );
}

function openEntry({ run, repeats, later }) {
  const mapped = run.map_index >= 0 ? ` [${run.label ?? run.map_index}]` : "";
  const hints = [
    run.tenant,
    byWhom(run),
    run.summary?.reason,
    repeats > 0 && `${plural(repeats, "run")} before it with the same result`,
    later && `a later run of this task ended on ${time(later.when, { seconds: false })}`,
  ];
  return element(
    "li",
    {},
    element("span", { class: `state-badge ${run.state}` }, STATES[run.state]),
    element(
      "div",
      {},
      element(
        "p",
        {},
        run.state === "approval" ? element("a", inAirflow(run.approval.address), explainState(run)) : explainState(run),
      ),
      element(
        "p",
        { class: "hint" },
        element(
          "a",
          { href: outcomeAddress(run) },
          `${run.dag}, ${run.task}${mapped}, ${time(run.when, { seconds: false }) || "not started"}`,
        ),
        hints
          .filter(Boolean)
          .map((each) => `; ${each}`)
          .join(""),
      ),
    ),
  );
}

// The devices: their reasons, what can be done with them, and the list. update(rows, isChecking) shows other rows.
function devicesView(canRun) {
  const chosen = {
    reason: parameters().get("reason") ?? "",
    tenant: parameters().get("tenant") ?? "",
    text: parameters().get("q") ?? "",
  };
  const explained = new Map();
  const explain = ({ status, reason }) => {
    const key = `${status} ${reason}`;
    if (!explained.has(key)) explained.set(key, remedyOf({ status, reason }));
    return explained.get(key);
  };
  let rows = [];
  let shown = [];
  let isPending = true;

  const table = grid(
    columns((at) => rows[at]),
    "Devices that need attention",
  );
  table.node.classList.add("attention-grid");
  const reasons = element("ul", { class: "reasons" });
  const tenant = element("select", {
    "aria-label": "Tenant",
    onchange: (event) => choose({ tenant: event.target.value }),
  });
  const search = element("input", {
    type: "search",
    value: chosen.text,
    placeholder: "Device name or uid",
    "aria-label": "Search by device name or uid",
    autocomplete: "off",
    spellcheck: "false",
    oninput: (event) => choose({ text: event.target.value.trim() }),
  });
  const count = element("span", { class: "hint", role: "status" });
  const panel = element("section", { class: "card again", "aria-label": "Run again", hidden: true });
  const place = element("div", { class: "place" });
  const copy = element("button", { type: "button", onclick: () => copyShown() }, "Copy these rows");
  const again =
    canRun && element("button", { type: "button", onclick: () => showRunAgain(panel, shownRows()) }, "Run these again");
  const none = element("p", { class: "nothing", hidden: true }, "No device matches.");
  const shownRows = () => shown.map((at) => rows[at]);

  async function copyShown() {
    const isCopied = await copyText(
      tabSeparated(["uid", "name", "status", "reason"], ["uid", "name", "status", "reason"], shownRows()),
      place,
    );
    count.textContent = isCopied ? `${plural(shown.length, "row")} copied` : "";
  }

  function choose(values) {
    Object.assign(chosen, values);
    change({ reason: chosen.reason, tenant: chosen.tenant, q: chosen.text });
    panel.hidden = true;
    draw();
  }

  // By tenant and text: the reasons are counted among these.
  function draw() {
    const matches = matcher(chosen.text);
    const among = rows
      .map((_, at) => at)
      .filter(
        (at) => (chosen.tenant === "" || rows[at].run.tenant === chosen.tenant) && matches(rows[at].uid, rows[at].name),
      );
    const found = reasonsOf(
      among.map((at) => rows[at]),
      explain,
    );
    if (chosen.reason && !found.some(({ reason }) => reason === chosen.reason))
      found.push({ reason: chosen.reason, remedy: "", status: "", count: 0 });
    shown = chosen.reason ? among.filter((at) => explain(rows[at]).reason === chosen.reason) : among;
    drawReasons(found);
    drawTenants();
    const total = plural(rows.length, "device");
    count.textContent = `${shown.length === rows.length ? total : `${number(shown.length)} of ${total}`}${isPending ? " so far" : ""}`;
    none.hidden = shown.length > 0;
    for (const button of [copy, again]) if (button) button.disabled = shown.length === 0 || isPending;
    const { scrollTop } = table.node;
    table.show(shown);
    table.node.scrollTop = scrollTop;
  }

  function drawReasons(found) {
    const drawn = [...reasons.querySelectorAll("button")];
    if (drawn.length === found.length && found.every(({ reason }, at) => drawn[at].dataset.reason === reason)) {
      // The same buttons, so that one that is pressed while rows arrive is not lost.
      for (const [at, each] of found.entries()) {
        drawn[at].ariaPressed = String(chosen.reason === each.reason);
        drawn[at].querySelector("b").textContent = number(each.count);
      }
      return;
    }
    const focused = document.activeElement?.closest?.(".reasons button")?.dataset.reason;
    const isOpen = reasons.querySelector("details")?.open;
    const items = found.map((each) =>
      reasonItem(each, chosen.reason === each.reason, () =>
        choose({ reason: chosen.reason === each.reason ? "" : each.reason }),
      ),
    );
    const rest = items.slice(FIRST);
    reasons.replaceChildren(...items.slice(0, FIRST));
    const isChosenInRest = found.slice(FIRST).some(({ reason }) => reason === chosen.reason);
    if (rest.length > 0)
      reasons.append(
        element(
          "li",
          {},
          element(
            "details",
            { open: isOpen || isChosenInRest },
            element("summary", {}, `${number(rest.length)} more`),
            element("ul", {}, rest),
          ),
        ),
      );
    if (focused !== undefined)
      [...reasons.querySelectorAll("button")].find(({ dataset }) => dataset.reason === focused)?.focus();
  }

  function drawTenants() {
    const tenants = [...new Set(rows.map(({ run }) => run.tenant).filter(Boolean))].sort();
    if (chosen.tenant && !tenants.includes(chosen.tenant)) tenants.push(chosen.tenant);
    tenant.hidden = tenants.length < 2 && !chosen.tenant;
    tenant.replaceChildren(
      ...options(
        ["", ...tenants].map((each) => [each, each || "All tenants"]),
        chosen.tenant,
      ),
    );
  }

  return {
    node: element(
      "div",
      { class: "attention-devices" },
      element("section", { class: "card" }, element("h2", {}, "Top reasons"), reasons),
      element("div", { class: "tools" }, search, tenant, element("span", { class: "ending" }, count, copy, again)),
      !canRun && element("p", { class: "hint" }, noRunAgain),
      place,
      panel,
      element("div", { class: "card flush table-card" }, table.node, none),
    ),
    update: (next, isChecking) => {
      rows = next;
      isPending = isChecking;
      draw();
    },
  };
}

function reasonItem({ reason, remedy, status, count }, isChosen, toggle) {
  return element(
    "li",
    {},
    element(
      "button",
      { type: "button", class: "top-reason", "aria-pressed": String(isChosen), "data-reason": reason, onclick: toggle },
      element("b", { class: `text-${groupOf[status] ?? ""}` }, number(count)),
      element("span", {}, element("span", {}, reason), remedy && element("span", { class: "hint" }, remedy)),
    ),
  );
}

function columns(rowAt) {
  const text = (name, label, value) => ({
    name,
    label,
    cell: (at) => element("span", { title: value(rowAt(at)) }, value(rowAt(at))),
  });
  return [
    {
      name: "name",
      label: "Name",
      cell: (at) =>
        element(
          "a",
          { href: findAddress(rowAt(at)), title: "Find it in all runs" },
          String(rowAt(at).name ?? rowAt(at).uid ?? ""),
        ),
    },
    {
      name: "status",
      label: "Status",
      cell: (at) =>
        element(
          "span",
          { class: `status text-${groupOf[rowAt(at).status] ?? ""}`, title: STATUSES[rowAt(at).status] },
          rowAt(at).status,
        ),
    },
    text("reason", "Reason", (row) => String(row.reason ?? "")),
    text("uid", "uid", (row) => String(row.uid ?? "")),
    {
      name: "when",
      label: "Run",
      cell: (at) => element("a", { href: rowAddress(rowAt(at)) }, time(rowAt(at).run.when, { seconds: false })),
    },
    { name: "times", label: "In runs", cell: (at) => number(rowAt(at).runs) },
    text("task", "Task", ({ run }) => `${run.dag}, ${run.task}`),
    text("tenant", "Tenant", ({ run }) => run.tenant ?? ""),
  ];
}

const findAddress = ({ uid, name }) => href({ view: "find", q: String(uid || name || ""), ...shared(parameters()) });

// The outcome of a row's run, filtered by the device.
export const rowAddress = ({ run, uid, name }) =>
  href({
    dag_id: run.dag_id,
    run_id: run.run_id,
    task_id: run.task_id,
    map_index: run.map_index,
    q: String(uid || name || ""),
  });
