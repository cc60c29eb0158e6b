// A table of any length: only the rows in view are in the document.

import { element } from "./dom.js";

const ROW = 33; // pixels, as in page.css
const SPARE = 12; // rows above and below the view
const TALLEST = 15_000_000; // pixels: browsers lose count beyond

// columns: [{name, label, cell(row) -> node or text}]. Returns the element and show(positions).
export function grid(columns, label) {
  const head = element("div", { role: "row", class: "row head", "aria-rowindex": 1 }, columns.map((column) => element("div", { role: "columnheader", class: `cell ${column.name}` }, column.label)));
  const body = element("div", { role: "rowgroup", class: "rows" });
  const node = element("div", { role: "table", class: "grid-table", tabindex: "0", "aria-label": label }, element("div", { role: "rowgroup", class: "heads" }, head), body);
  let positions = [];
  let drawn = "";

  const draw = () => {
    const tall = positions.length * ROW;
    const scale = Math.max(1, tall / TALLEST); // beyond it, the scroll bar is a rough one
    const top = Math.max(0, node.scrollTop);
    const first = Math.max(0, Math.floor((top * scale) / ROW) - SPARE);
    const last = Math.min(positions.length, first + Math.ceil(node.clientHeight / ROW) + 2 * SPARE);
    if (drawn === `${first}-${last}`) return;
    drawn = `${first}-${last}`;
    body.style.height = `${tall / scale}px`;
    const shift = scale === 1 ? first * ROW : Math.max(0, top - (Math.floor((top * scale) / ROW) - first) * ROW);
    const rows = [];
    for (let index = first; index < last; index += 1) {
      const row = element("div", { role: "row", class: "row", "aria-rowindex": index + 2 }, columns.map((column) => element("div", { role: "cell", class: `cell ${column.name}` }, column.cell(positions[index]))));
      row.style.transform = `translateY(${shift + (index - first) * ROW}px)`;
      rows.push(row);
    }
    body.replaceChildren(...rows);
  };
  node.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  new ResizeObserver(() => {
    drawn = "";
    draw();
  }).observe(node);

  const show = (next) => {
    positions = next;
    drawn = "";
    node.setAttribute("aria-rowcount", positions.length + 1);
    node.scrollTop = 0;
    draw();
  };
  return { node, show };
}
