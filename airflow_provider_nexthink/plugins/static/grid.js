// A virtualized table: only the visible rows are in the document.

import { element } from "./dom.js";

const ROW_PX = 33; // as in page.css
const PHONE_ROW_PX = 66; // as in outcome.css
const phone = window.matchMedia("(max-width: 700px)");
const OVERSCAN = 12; // rows above and below the visible ones
const MAX_HEIGHT_PX = 15_000_000; // browsers cap the height of an element

// columns: [{name, label, cell(row) -> node or text}]. onSelect(row or null), if given: rows can be selected, by click or
// key. Returns the element, show(positions), and clear(), which selects nothing.
export function grid(columns, label, { onSelect = null } = {}) {
  const head = element(
    "div",
    { role: "row", class: "row head", "aria-rowindex": 1 },
    columns.map((column) => element("div", { role: "columnheader", class: `cell ${column.name}` }, column.label)),
  );
  const body = element("div", { role: "rowgroup", class: "rows" });
  const heads = element("div", { role: "rowgroup", class: "heads" }, head);
  const node = element("div", { role: "table", class: "grid-table", tabindex: "0", "aria-label": label }, heads, body);
  let positions = [];
  let drawn = "";
  let selected = -1; // an index into positions
  const rows = new Map(); // those in the document, by their index

  const heightOfRow = () => (phone.matches ? PHONE_ROW_PX : ROW_PX);
  const scaleOf = (tall) => Math.max(1, tall / MAX_HEIGHT_PX); // above the cap, scrolling is coarser

  const makeRow = (index) =>
    element(
      "div",
      { role: "row", class: "row", "aria-rowindex": index + 2, "aria-current": index === selected && "true" },
      columns.map((column) =>
        element("div", { role: "cell", class: `cell ${column.name}` }, column.cell(positions[index])),
      ),
    );

  const draw = () => {
    const rowPx = heightOfRow();
    const tall = positions.length * rowPx;
    const scale = scaleOf(tall);
    const top = Math.max(0, node.scrollTop);
    const first = Math.max(0, Math.floor((top * scale) / rowPx) - OVERSCAN);
    const last = Math.min(positions.length, first + Math.ceil(node.clientHeight / rowPx) + 2 * OVERSCAN);
    if (drawn === `${first}-${last}`) return;
    drawn = `${first}-${last}`;
    body.style.height = `${tall / scale}px`;
    const shift = scale === 1 ? first * rowPx : Math.max(0, top - (Math.floor((top * scale) / rowPx) - first) * rowPx);
    // Rows that stay are not made anew: text in them may be selected.
    for (const [index, row] of rows) {
      if (index >= first && index < last) continue;
      row.remove();
      rows.delete(index);
    }
    for (let index = first; index < last; index += 1) {
      if (!rows.has(index)) rows.set(index, makeRow(index));
      const row = rows.get(index);
      row.style.transform = `translateY(${shift + (index - first) * rowPx}px)`;
      const next = body.children[index - first] ?? null;
      if (row !== next) body.insertBefore(row, next);
    }
  };

  const scrollTo = (index) => {
    const rowPx = heightOfRow();
    const visible = node.clientHeight - heads.offsetHeight;
    const top = (index * rowPx) / scaleOf(positions.length * rowPx);
    if (index === positions.length - 1) node.scrollTop = node.scrollHeight;
    else if (top < node.scrollTop) node.scrollTop = top;
    else if (top + rowPx > node.scrollTop + visible) node.scrollTop = top + rowPx - visible;
  };
  const select = (index) => {
    selected = index;
    for (const [at, row] of rows) {
      if (at === index) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
    onSelect(index < 0 ? null : positions[index]);
  };
  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || positions.length === 0) return;
    const page = Math.max(1, Math.floor((node.clientHeight - heads.offsetHeight) / heightOfRow()) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key === "Escape" && selected >= 0) select(-1);
    else if (event.key in steps) {
      const next = Math.min(positions.length - 1, Math.max(0, selected + steps[event.key]));
      select(next);
      scrollTo(next);
    } else return;
    event.preventDefault();
  };
  if (onSelect) {
    node.classList.add("selectable");
    node.addEventListener("keydown", onKey);
    body.addEventListener("click", ({ target }) => {
      const row = target.closest(".row");
      if (row) select(Number(row.getAttribute("aria-rowindex")) - 2);
    });
  }
  node.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  new ResizeObserver(() => {
    drawn = "";
    draw();
    if (selected >= 0) scrollTo(selected); // it stays in sight when its details take room
  }).observe(node);

  const show = (next) => {
    positions = next;
    drawn = "";
    rows.clear();
    body.replaceChildren();
    node.setAttribute("aria-rowcount", positions.length + 1);
    node.scrollTop = 0;
    if (selected >= 0) select(-1);
    draw();
  };
  return { node, show, clear: () => selected >= 0 && select(-1) };
}
