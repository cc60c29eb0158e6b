import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

const ENTRY = { dag_id: "a/b", run_id: "manual__1", task_id: "t", map_index: 7 };

// An API that responds with what `respond` says.
let respond = () => {};
let shortXcom;
const server = createServer((request, response) => respond(request, response));

before(async () => {
  await once(server.listen(0, "127.0.0.1"), "listening");
  globalThis.document = { baseURI: `http://127.0.0.1:${server.address().port}/team/nexthink/` };
  ({ shortXcom } = await import("../../airflow_provider_nexthink/plugins/static/airflow.js"));
});
after(() => {
  server.close();
  server.closeAllConnections();
});

test("shortXcom: the value of an XCom, also where it is JSON in a text", async () => {
  for (const value of [{ path: "a.parquet", rows: 1 }, '{"path": "a.parquet", "rows": 1}']) {
    respond = (request, response) => {
      assert.ok(
        request.url.startsWith("/team/api/v2/dags/a%2Fb/dagRuns/manual__1/taskInstances/t/xcomEntries/k?map_index=7"),
      );
      response.end(JSON.stringify({ value }));
    };
    assert.deepEqual(await shortXcom(ENTRY, "k", 1000), { path: "a.parquet", rows: 1 });
  }
});

test("shortXcom: of a long value, no more is read than it takes to see that", { timeout: 60_000 }, async () => {
  let closed;
  respond = (_, response) => {
    closed = once(response, "close");
    response.write('{"value": "');
    const more = () => {
      while (!response.destroyed && response.write("x".repeat(10_000)));
      response.once("drain", more);
    };
    more(); // without an end
  };
  assert.equal(await shortXcom(ENTRY, "k", 64_000), undefined);
  await closed;
});

test("shortXcom: an error of Airflow, and a response that is cut off", async () => {
  respond = (_, response) => response.writeHead(404).end('{"detail": "not found"}');
  await assert.rejects(shortXcom(ENTRY, "k", 1000), { status: 404, message: "not found" });
  respond = (_, response) => response.end('{"value": {"path"');
  await assert.rejects(shortXcom(ENTRY, "k", 1000), { status: 200 });
});
