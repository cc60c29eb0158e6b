// The table as CSV (RFC 4180). Every cell verbatim: the file is evidence, and a Dag can read it again.

const NEEDS_QUOTING = /[",\r\n]/;
// A spreadsheet may read such a cell as a formula. The cell is not changed; the page warns.
const LIKE_A_FORMULA = /^[=+\-@\t\r]/;

const cell = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  return NEEDS_QUOTING.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

// at(row, column) returns a cell. The result is a list of parts for a Blob, starting with a byte order mark: spreadsheets need it for UTF-8.
export function csv(columns, positions, at) {
  const parts = [`\ufeff${columns.map(cell).join(",")}\r\n`];
  for (const row of positions) parts.push(`${columns.map((column) => cell(at(row, column))).join(",")}\r\n`);
  return parts;
}

export const likeFormulas = (positions, at) =>
  positions.filter((row) => ["uid", "name"].some((column) => LIKE_A_FORMULA.test(at(row, column) ?? "")));

export const fileName = (parts) => `${parts.join("_").replaceAll(/[^A-Za-z0-9._-]+/g, "-")}.csv`;
