// The table as CSV (RFC 4180). Every cell to the letter: the file is proof, and a Dag can read it again.

const COMMA_OR_MORE = /[",\r\n]/;
// A spreadsheet may take such a cell for a formula. It is not changed, but the person is told.
const LIKE_A_FORMULA = /^[=+\-@\t\r]/;

const cell = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  return COMMA_OR_MORE.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

// Rows are read with at(row, column). Returned in parts, as a Blob takes them; with the mark by which spreadsheets know UTF-8.
export function csv(columns, positions, at) {
  const parts = [`\ufeff${columns.map(cell).join(",")}\r\n`];
  for (const row of positions) parts.push(`${columns.map((column) => cell(at(row, column))).join(",")}\r\n`);
  return parts;
}

export const likeFormulas = (positions, at) => positions.filter((row) => ["uid", "name"].some((column) => LIKE_A_FORMULA.test(at(row, column) ?? "")));

export const fileName = (parts) => `${parts.join("_").replaceAll(/[^A-Za-z0-9._-]+/g, "-")}.csv`;
