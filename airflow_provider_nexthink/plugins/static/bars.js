// Charts of weeks: what went and came back, and how many seats that makes in all. Each has its figures in a table beside it.

import { niceMaximum } from "./chart.js";
import { number, svg } from "./dom.js";
import { weekLabels } from "./seats_model.js";

const TOP = 10;
const LEFT = 60;
const RIGHT = 12;
const LABELS = 24; // the height of the labels of the weeks
const LABEL_PX = 66;
const TEXT_PX = 13; // what a figure of the axis takes

export const BARS_HEIGHT = 230;
export const LINE_HEIGHT = 130;

// Up: the devices that went, in the outline of the deletions that were scheduled. Down: those that came back. One scale.
export function weekBars(weeks, width) {
  const up = niceMaximum(Math.max(1, ...weeks.map(({ scheduled, gone }) => Math.max(scheduled, gone))));
  const returned = Math.max(...weeks.map((week) => week.returned));
  const down = returned > 0 ? niceMaximum(returned) : 0;
  const { y, x, step, frame } = axes(weeks, width, BARS_HEIGHT, [up, up / 2, 0, -down], up, -down);
  const bar = Math.max(1, Math.min(26, step * 0.6));
  const outline = Math.min(34, step * 0.86);
  const bars = weeks.map((week, at) =>
    svg(
      "g",
      { class: "week", "data-week": week.week },
      svg("title", {}, describeWeek(week)),
      svg("rect", { class: "hit", x: x(at) - step / 2, y: TOP, width: step, height: BARS_HEIGHT - TOP - LABELS }),
      week.scheduled > 0 &&
        svg("rect", {
          class: "outline",
          "data-what": "scheduled",
          x: x(at) - outline / 2,
          width: outline,
          y: y(week.scheduled),
          height: y(0) - y(week.scheduled),
        }),
      week.gone > 0 &&
        svg("rect", {
          class: "fill-gone",
          "data-what": "gone",
          x: x(at) - bar / 2,
          width: bar,
          y: y(week.gone),
          height: y(0) - y(week.gone),
        }),
      week.returned > 0 &&
        svg("rect", {
          class: "fill-returned",
          "data-what": "returned",
          x: x(at) - bar / 2,
          width: bar,
          y: y(0),
          height: y(-week.returned) - y(0),
        }),
    ),
  );
  return svg(
    "svg",
    {
      width,
      height: BARS_HEIGHT,
      role: "img",
      "aria-label": "Devices that went and came back, by week; the figures are in the table",
    },
    frame,
    bars,
  );
}

// The net of all weeks until each.
export function totalLine(weeks, width) {
  const totals = weeks.map(({ total }) => total);
  const highest = Math.max(0, ...totals);
  const lowest = Math.min(0, ...totals);
  const top = highest > 0 || lowest === 0 ? niceMaximum(Math.max(1, highest)) : 0;
  const bottom = lowest < 0 ? -niceMaximum(-lowest) : 0;
  const { y, x, step, frame } = axes(weeks, width, LINE_HEIGHT, [top, 0, bottom], top, bottom);
  const points = weeks.map(({ total }, at) => `${x(at)},${y(total)}`);
  const hits = weeks.map((week, at) =>
    svg(
      "g",
      { class: "week" },
      svg("title", {}, describeWeek(week)),
      svg("rect", { class: "hit", x: x(at) - step / 2, y: TOP, width: step, height: LINE_HEIGHT - TOP - LABELS }),
    ),
  );
  return svg(
    "svg",
    {
      width,
      height: LINE_HEIGHT,
      role: "img",
      "aria-label": "Seats freed in all, week by week; the figures are in the table",
    },
    frame,
    hits,
    svg("polyline", { class: "total", points: points.join(" ") }),
    svg("circle", { class: "fill-gone", cx: x(weeks.length - 1), cy: y(totals.at(-1)), r: 3.5 }),
  );
}

// A frame with lines at these values, and the labels of the weeks.
function axes(weeks, width, height, values, top, bottom) {
  const inner = height - TOP - LABELS;
  const y = (value) => TOP + ((top - value) / (top - bottom)) * inner;
  const step = (width - LEFT - RIGHT) / weeks.length;
  const x = (at) => LEFT + step * (at + 0.5);
  const lines = [...new Set(values)].map((value) => {
    const isLegible = value === 0 || Math.abs(y(value) - y(0)) >= TEXT_PX;
    return svg(
      "g",
      { class: value === 0 ? "grid zero-line" : "grid" },
      svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      isLegible && svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, number(value)),
    );
  });
  const every = Math.max(1, Math.ceil(LABEL_PX / step));
  const marked = weeks.map((_, at) => at).filter((at) => at % every === 0);
  const labels = weekLabels(marked.map((at) => weeks[at].week));
  const texts = marked.map((at, index) =>
    svg("text", { class: "week-label", x: x(at), y: height - 7, "text-anchor": "middle" }, labels[index]),
  );
  return { y, x, step, frame: svg("g", {}, lines, texts) };
}

export function describeWeek({ week, monday, scheduled, gone, returned, net, total }) {
  return `${week}, from ${monday}. Scheduled: ${number(scheduled)}. Gone: ${number(gone)}. Returned: ${number(returned)}. Net: ${number(net)}. In all: ${number(total)}`;
}
