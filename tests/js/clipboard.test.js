import assert from "node:assert/strict";
import { test } from "node:test";

import { tabSeparated } from "../../airflow_provider_nexthink/plugins/static/clipboard.js";

test("tabSeparated: cells that would end a cell or a row are quoted, all else is verbatim", () => {
  const rows = [
    { uid: "a", name: " LAPTOP ", other: 1 },
    { uid: "b", name: 'tab\there "and" there' },
    { uid: null, name: "two\nlines" },
  ];
  assert.equal(
    tabSeparated(["device.uid", "name"], ["uid", "name"], rows),
    'device.uid\tname\na\t LAPTOP \nb\t"tab\there ""and"" there"\n\t"two\nlines"\n',
  );
});
