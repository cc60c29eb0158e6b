import assert from "node:assert/strict";
import { test } from "node:test";

import { csv, fileName, likeFormulas } from "../../airflow_provider_nexthink/plugins/static/csv.js";

const at = (rows) => (row, column) => rows[row][column];
const lines = (rows, columns) => csv(columns, Object.keys(rows), at(rows));
const nameInCsv = (name) => lines([{ name }], ["name"])[1];

test("csv starts with a byte order mark and the columns, and every line ends with CRLF", () => {
  const rows = [
    { uid: "1", name: "LAPTOP-1" },
    { uid: "2", name: "LAPTOP-2" },
  ];
  assert.equal(lines(rows, ["uid", "name"]).join(""), "\ufeffuid,name\r\n1,LAPTOP-1\r\n2,LAPTOP-2\r\n");
});

test("csv writes the given rows only, in their order", () => {
  const rows = [{ uid: "a" }, { uid: "b" }, { uid: "c" }];
  assert.deepEqual(csv(["uid"], [2, 0], at(rows)), ["\ufeffuid\r\n", "c\r\n", "a\r\n"]);
});

test("csv without rows has the columns", () => {
  assert.deepEqual(csv(["uid", "name"], [], at([])), ["\ufeffuid,name\r\n"]);
});

test("csv quotes a cell with a comma, a quote or a line break", () => {
  assert.equal(nameInCsv("one, two"), '"one, two"\r\n');
  assert.equal(nameInCsv('the "old" one'), '"the ""old"" one"\r\n');
  assert.equal(nameInCsv('"'), '""""\r\n');
  assert.equal(nameInCsv("one\ntwo"), '"one\ntwo"\r\n');
  assert.equal(nameInCsv("one\rtwo"), '"one\rtwo"\r\n');
});

test("csv quotes the name of a column like a cell", () => {
  assert.equal(csv(["a,b"], [], at([]))[0], '\ufeff"a,b"\r\n');
});

test("csv writes any other cell as it is", () => {
  for (const name of ["plain", "with space ", "it's; fine", "Zoë-株式会社", "=1+1", "-", "<b>"]) {
    assert.equal(nameInCsv(name), `${name}\r\n`);
  }
});

test("csv writes null and undefined as an empty cell, but not 0 or false", () => {
  assert.equal(nameInCsv(null), "\r\n");
  assert.equal(nameInCsv(undefined), "\r\n");
  assert.equal(nameInCsv(0), "0\r\n");
  assert.equal(nameInCsv(false), "false\r\n");
});

test("likeFormulas finds each start that a spreadsheet may compute, in uid and name", () => {
  for (const text of ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"]) {
    assert.deepEqual(likeFormulas([0], at([{ uid: "1", name: text }])), [0], JSON.stringify(text));
    assert.deepEqual(likeFormulas([0], at([{ uid: text, name: "LAPTOP-1" }])), [0], JSON.stringify(text));
  }
});

test("likeFormulas returns the positions of such rows only, each once", () => {
  const rows = [{ uid: "=a", name: "=b" }, { uid: "1", name: "A=1" }, { uid: "2" }, { uid: null, name: "-" }];
  assert.deepEqual(likeFormulas([3, 2, 1, 0], at(rows)), [3, 0]);
});

test("likeFormulas ignores other columns", () => {
  assert.deepEqual(likeFormulas([0], at([{ uid: "1", name: "LAPTOP-1", reason: "=1" }])), []);
});

test("fileName joins its parts", () => {
  assert.equal(fileName(["nexthink", "lifecycle", "delete"]), "nexthink_lifecycle_delete.csv");
});

test("fileName replaces what a file system may refuse", () => {
  assert.equal(fileName(["manual__2026-11-26T10:41:07+00:00"]), "manual__2026-11-26T10-41-07-00-00.csv");
  assert.equal(fileName(["../a\\b", 'c "d"', "é*?"]), "..-a-b_c-d-_-.csv");
});
