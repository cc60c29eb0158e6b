// A virtualized table: only the visible rows are in the document.

import { element } from "./dom.js";

const ROW_PX = 33; // as in page.css
const PHONE_ROW_PX = 66; // as in outcome.css
const phone = window.matchMedia("(max-width: 700px)");
const OVERSCAN = 12; // rows above and below the visible ones
const MAX_HEIGHT_PX = 15_000_000; // browsers cap the height of an element

// columns: [{name, label, cell(row) -> node or text}]. Returns the element and show(positions).
export function grid(columns, label) {
  const head = element(
    "div",
    { role: "row", class: "row head", "aria-rowindex": 1 },
    columns.map((column) => element("div", { role: "columnheader", class: `cell ${column.name}` }, column.label)),
  );
  const body = element("div", { role: "rowgroup", class: "rows" });
  const node = element(
    "div",
    { role: "table", class: "grid-table", tabindex: "0", "aria-label": label },
    element("div", { role: "rowgroup", class: "heads" }, head),
    body,
  );
  let positions = [];
  let drawn = "";

  const draw = () => {
    const rowPx = phone.matches ? PHONE_ROW_PX : ROW_PX;
    const tall = positions.length * rowPx;
    const scale = Math.max(1, tall / MAX_HEIGHT_PX); // above the cap, scrolling is coarser
    const top = Math.max(0, node.scrollTop);
    const first = Math.max(0, Math.floor((top * scale) / rowPx) - OVERSCAN);
    const last = Math.min(positions.length, first + Math.ceil(node.clientHeight / rowPx) + 2 * OVERSCAN);
    if (drawn === `${first}-${last}`) return;
    drawn = `${first}-${last}`;
    body.style.height = `${tall / scale}px`;
    const shift = scale === 1 ? first * rowPx : Math.max(0, top - (Math.floor((top * scale) / rowPx) - first) * rowPx);
    const rows = [];
    for (let index = first; index < last; index += 1) {
      const row = element(
        "div",
        { role: "row", class: "row", "aria-rowindex": index + 2 },
        columns.map((column) =>
          element("div", { role: "cell", class: `cell ${column.name}` }, column.cell(positions[index])),
        ),
      );
      row.style.transform = `translateY(${shift + (index - first) * rowPx}px)`;
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
