// Stacked bars, one per run, oldest first. Each links to the run's outcome table.

import { element, number, plural, svg, time } from "./dom.js";
import { GROUPS, count } from "./statuses.js";

const HEIGHT = 210;
const TOP = 10;
const BOTTOM = 26;
const LEFT = 52;
const MIN_BAR_PX = 2; // one device among thousands stays visible

export function chart(runs, width, addressOf) {
  const inner = HEIGHT - TOP - BOTTOM;
  const most = niceMaximum(Math.max(...runs.map((run) => run.summary.requested), 1));
  const step = (width - LEFT - 8) / runs.length;
  const bar = Math.max(2, Math.min(28, step * 0.72));
  const y = (value) => TOP + inner - (value / most) * inner;
  const lines = [0, 0.5, 1].map((share) => {
    const value = Math.round(most * share);
    return svg(
      "g",
      { class: "grid" },
      svg("line", { x1: LEFT, x2: width, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, number(value)),
    );
  });
  const every = Math.max(1, Math.ceil(64 / step));
  const labels = dayLabels(runs.filter((_, index) => index % every === 0));
  const bars = runs.map((run, index) => {
    const middle = LEFT + step * (index + 0.5);
    const link = svg(
      "a",
      { href: addressOf(run), class: "bar", "aria-label": describe(run) },
      svg("title", {}, describe(run)),
      svg("rect", { class: "hit", x: middle - step / 2, y: TOP, width: step, height: inner }),
      ...stack(run.summary, most, inner, middle - bar / 2, bar),
    );
    const label = index % every === 0 && svg("text", { x: middle, y: HEIGHT - 8, "text-anchor": "middle" }, labels.shift());
    return svg("g", {}, link, label);
  });
  return svg("svg", { width, height: HEIGHT, role: "group", "aria-label": "Devices of each run, by status" }, ...lines, ...bars);
}

function stack(summary, most, inner, x, width) {
  let bottom = TOP + inner;
  return GROUPS.map(({ id, statuses }) => {
    const value = count(summary, statuses);
    if (!value) return null;
    const height = Math.max(MIN_BAR_PX, (value / most) * inner);
    bottom -= height;
    return svg("rect", { class: `fill-${id}`, x, y: Math.max(0, bottom), width, height });
  });
}

export function describe({ dag_id, run_after, summary }) {
  const parts = GROUPS.map(({ label, statuses }) => [label, count(summary, statuses)]).filter(([, value]) => value);
  const counts = parts.map(([label, value]) => `${label}: ${number(value)}`).join(", ");
  return `${dag_id}, ${time(run_after, { seconds: false })}: ${plural(summary.requested, "device")}. ${counts}`;
}

export function legend(runs) {
  const totals = GROUPS.map((group) => ({ ...group, total: runs.reduce((sum, run) => sum + count(run.summary, group.statuses), 0) }));
  return element(
    "ul",
    { class: "legend" },
    totals
      .filter(({ always, total }) => always || total)
      .map(({ id, label, total }) => element("li", {}, element("span", { class: `swatch fill-${id}` }), `${label} `, element("b", {}, number(total)))),
  );
}

// The day of each run, or its time if the previous label has the same day.
function dayLabels(runs) {
  const texts = runs.map((run) => time(run.run_after));
  return texts.map((text, index) => (text.slice(0, 10) === texts[index - 1]?.slice(0, 10) ? text.slice(11, 16) : text.slice(5, 10)));
}

// A round number at the top of the axis.
function niceMaximum(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return Math.max(2, [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10].find((factor) => factor * power >= value) * power);
}
