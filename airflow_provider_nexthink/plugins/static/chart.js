// Stacked bars, one for each run, the oldest first. Each links to the outcome of its run.

import { element, number, plural, svg } from "./dom.js";
import { STATES } from "./run.js";
import { GROUPS } from "./statuses.js";
import { day, time } from "./time.js";

const HEIGHT = 210;
const TOP = 18;
const BOTTOM = 26;
const LEFT = 52;
const LABEL_PX = 70;

// A place for a chart, which is drawn as wide as it is.
export function canvas(className, draw) {
  const node = element("div", { class: `canvas ${className}` });
  let drawn = 0;
  new ResizeObserver(() => {
    const width = Math.max(280, node.clientWidth);
    if (width === drawn) return;
    drawn = width;
    node.replaceChildren(draw(width));
  }).observe(node);
  return node;
}

export function chart(runs, width, addressOf) {
  const inner = HEIGHT - TOP - BOTTOM;
  const most = niceMaximum(Math.max(...runs.map(heightOf), 1));
  const step = (width - LEFT - 8) / runs.length;
  const bar = Math.max(1, Math.min(28, step * 0.72));
  const mark = Math.min(3.5, Math.max(1.5, step / 3));
  const y = (value) => TOP + inner - (value / most) * inner;
  const lines = [0, 0.5, 1].map((share) => {
    const value = most * share;
    return svg(
      "g",
      { class: "grid" },
      svg("line", { x1: LEFT, x2: width, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, number(value)),
    );
  });
  const every = Math.max(1, Math.ceil(LABEL_PX / step));
  const labels = axisLabels(runs.filter((_, index) => index % every === 0).map(({ when }) => when));
  const bars = runs.map((run, index) => {
    const middle = LEFT + step * (index + 0.5);
    const link = svg(
      "a",
      { href: addressOf(run), class: "bar", "aria-label": describe(run) },
      svg("title", {}, describe(run)),
      svg("rect", { class: "hit", x: middle - step / 2, y: TOP - 10, width: step, height: inner + 10 }),
      ...stack(run.counts, y, middle - bar / 2, bar),
      // The heights are true to scale, so a few devices among thousands are not seen: a mark says that they are there.
      run.counts.attention > 0 &&
        svg("circle", { class: "fill-attention", cx: middle, cy: y(heightOf(run)) - 7, r: mark }),
      ["blocked", "failed"].includes(run.state) &&
        cross(middle, y(heightOf(run)) - (run.counts.attention > 0 ? 18 : 7), mark, run.state),
    );
    const label =
      index % every === 0 && svg("text", { x: middle, y: HEIGHT - 8, "text-anchor": "middle" }, labels[index / every]);
    return svg("g", {}, link, label);
  });
  return svg(
    "svg",
    { width, height: HEIGHT, role: "group", "aria-label": "Devices of each run, by group" },
    ...lines,
    ...bars,
  );
}

// Of a run that was blocked nothing was sent: it has no height.
const heightOf = ({ counts, total }) => total - counts.blocked;

const cross = (x, y, size, state) =>
  svg("path", {
    class: `cross ${state}`,
    d: `M${x - size} ${y - size}l${2 * size} ${2 * size}m0 ${-2 * size}l${-2 * size} ${2 * size}`,
  });

function stack(counts, y, x, width) {
  let below = 0;
  return GROUPS.filter(({ id }) => id !== "blocked" && counts[id] > 0).map(({ id }) => {
    const top = y(below + counts[id]);
    const height = y(below) - top;
    below += counts[id];
    return svg("rect", { class: `fill-${id}`, "data-group": id, x, y: top, width, height });
  });
}

export function describe({ dag, task, when, state, is_dry, counts, total }) {
  const parts = GROUPS.filter(({ id }) => counts[id]).map(({ id, label }) => `${label}: ${number(counts[id])}`);
  return `${dag}, ${task}, ${time(when, { seconds: false })}${is_dry ? ", dry run" : ""}: ${STATES[state]}. ${plural(total, "device")}. ${parts.join(", ")}`;
}

// What the colors and marks mean, of those that are drawn. The totals are in the tiles.
export function legend(runs) {
  const groups = GROUPS.filter(({ id }) => id !== "blocked" && runs.some(({ counts }) => counts[id])).map(
    ({ id, label }) => [`swatch fill-${id}`, label],
  );
  const marks = ["blocked", "failed"]
    .filter((state) => runs.some((run) => run.state === state))
    .map((state) => [`mark ${state}`, `${STATES[state]} run`]);
  const item = ([mark, label]) =>
    element("li", {}, element("span", { class: mark, "aria-hidden": "true" }, mark.startsWith("mark") && "×"), label);
  return element("ul", { class: "legend" }, [...groups, ...marks].map(item));
}

// The day of each time, or the time of day where the label before it has the same day.
export function axisLabels(times) {
  return times.map((text, index) =>
    index > 0 && day(text) === day(times[index - 1]) ? time(text).slice(11, 16) : day(text).slice(5),
  );
}

// A round even number at the top of the axis: its half is whole, too.
export function niceMaximum(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  const nice = [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10]
    .map((factor) => factor * power)
    .find((each) => each >= value && each % 2 === 0);
  return Math.max(2, nice ?? 2 * power * Math.ceil(value / (2 * power)));
}
