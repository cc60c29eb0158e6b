// A table that is in a file: where it is, how large, and how many rows have which status. This page cannot read files.

import { copyText } from "./clipboard.js";
import { element, number, plural } from "./dom.js";
import { countRows, fileSize } from "./manifest.js";
import { STATUSES, groupOf } from "./statuses.js";

// The path of a file, which one click selects, with a button that copies it.
export function pathLine(path, label) {
  const place = element("div", { class: "place" });
  const told = element("span", { class: "hint", role: "status" });
  const copy = async () => {
    told.textContent = (await copyText(path, place)) ? "Copied." : "";
  };
  return element(
    "div",
    { class: "path-line" },
    element("code", { class: "path" }, path),
    element("button", { type: "button", onclick: copy }, label),
    told,
    place,
  );
}

// What a manifest says.
export function fileCard({ path, rows, size, checksum, counts }) {
  const found = countRows(counts);
  const text = [plural(rows, "row"), size !== null && fileSize(size)].filter(Boolean).join(", ");
  return element(
    "section",
    { class: "card table-file", "aria-label": "File with the table" },
    element("h2", {}, `The whole table is in a file: ${text}`),
    pathLine(path, "Copy the path"),
    found.length > 0 &&
      element(
        "ul",
        { class: "counts", "aria-label": "Rows of each status" },
        found.map(([status, count]) =>
          element(
            "li",
            { title: STATUSES[status] },
            element("span", { class: `swatch fill-${groupOf[status]}` }),
            `${status} `,
            element("b", {}, number(count)),
          ),
        ),
      ),
    checksum &&
      element("p", { class: "hint checksum" }, "Checksum (BLAKE2b, 128 bits): ", element("code", {}, checksum)),
  );
}
