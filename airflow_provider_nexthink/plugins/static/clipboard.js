// Copies text, also where the browser has no clipboard for pages: over plain HTTP, or in a frame without permission.

import { element } from "./dom.js";

const NEEDS_QUOTING = /["\t\r\n]/;

// Tab-separated text as spreadsheets take it, and the form of the on-demand Dag. header: of each column. columns: keys of the rows.
export function tabSeparated(header, columns, rows) {
  const cell = (value) => {
    const text = String(value ?? "");
    return NEEDS_QUOTING.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [header, ...rows.map((row) => columns.map((column) => row[column]))]
    .map((cells) => `${cells.map(cell).join("\t")}\n`)
    .join("");
}

// Copy a text; where that is not allowed, show it in `place`, selected, for a person to copy. Returns whether it is copied.
export async function copyText(text, place) {
  place.replaceChildren();
  if (await written(text)) return true;
  const area = element("textarea", {
    readonly: true,
    rows: 8,
    class: "to-copy",
    "aria-label": "Text to copy",
    spellcheck: "false",
  });
  area.value = text;
  const before = document.activeElement;
  place.append(area);
  area.focus();
  area.select();
  if (commanded()) {
    area.remove();
    before?.focus();
    return true;
  }
  place.prepend(
    element("p", {}, "The browser does not let this page copy. The text is selected: press Ctrl+C (on a Mac ⌘C)."),
  );
  return false;
}

async function written(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // there is no clipboard, or no permission
  }
}

function commanded() {
  try {
    return document.execCommand("copy");
  } catch {
    return false;
  }
}
