// The only place that creates elements. Text stays text: a device may be called "<img onerror=...>".

const SVG = "http://www.w3.org/2000/svg";

// element("a", {href, class, onclick}, child, "text", ...): null, undefined and false are skipped.
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// A list to choose from. pairs: [value, text]; choose: gets the value that is chosen.
export function select(label, pairs, value, choose) {
  return element(
    "select",
    { "aria-label": label, onchange: (event) => choose(event.target.value) },
    options(pairs, value),
  );
}

export const options = (pairs, chosen) =>
  pairs.map(([value, text]) => element("option", { value, selected: value === chosen }, text));

const numbers = new Intl.NumberFormat("en");
export const number = (value) => numbers.format(value);
export const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60
    ? `${minutes} min ${Math.floor(seconds % 60)} s`
    : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
