// Run with: node --test tests/web
import assert from "node:assert/strict";
import test from "node:test";
import { duration, isKnown, lines, merged, nodeAt, ofOutput, progress } from "../../web/status.mjs";
import { phrases, speak, word } from "../../web/words.mjs";

const RUNNING = { node: "5", prompt_id: "a", node_type: "OneShotAdapt", state: "running" };

test("what is told of a run adds to it, another prompt starts anew", () => {
  const first = merged(undefined, { ...RUNNING, step: 1, steps: 9, points: { lpips: [[1, 2]] } });
  const second = merged(first, { ...RUNNING, step: 2, steps: 9, points: { lpips: [[2, 3]] } });
  assert.deepEqual(second.points, { lpips: [[1, 2], [2, 3]] });
  const end = merged(second, { node: "5", prompt_id: "a", state: "done", seconds: 3, text: ["kept"] });
  assert.equal(end.steps, 9);
  assert.deepEqual(end.points, second.points);
  const next = merged(end, { ...RUNNING, prompt_id: "b" });
  assert.deepEqual([next.points, next.text, next.steps], [{}, undefined, undefined]);
});

test("a run says its step and the time that is left", () => {
  assert.equal(progress({ step: 29, steps: 60, eta: 65 }), "step 29 of 60, 1:05 left");
  assert.equal(progress({ step: 60, steps: 60, eta: 0 }), "step 60 of 60");
  assert.equal(progress({}), "working");
});

test("an end says its notes, an error its own words, a cancel what is kept", () => {
  assert.deepEqual(lines({ state: "done", text: ["a\nb", ""], seconds: 3.14159 }).shown, ["a", "b", "done in 3.1 s"]);
  assert.deepEqual(lines({ state: "done", status: ["n"], text: ["t"], seconds: 61 }).shown, ["n", "done in 1:01"]);
  const wrong = lines({ state: "failed", error: "steps must be 1 or more" });
  assert.deepEqual([wrong.shown, wrong.wrong], [["steps must be 1 or more"], true]);
  const kept = { state: "cancelled", node_type: "OneShotAdapt", step: 7 };
  assert.match(lines(kept).shown[0], /what was done is kept/);
  assert.deepEqual(lines({ ...kept, node_type: "StyleCLIPEdit" }).shown, ["cancelled"]);
  assert.deepEqual(lines(undefined).shown, []);
});

test("what a cached node showed is an entry without a time", () => {
  const entry = ofOutput({ node: "5", prompt_id: "a" }, { text: ["step 6 of 6"], losses: [{ lpips: [[1, 2]] }], snapshots: [] });
  assert.deepEqual(lines(entry).shown, ["step 6 of 6"]);
  assert.deepEqual(entry.points, { lpips: [[1, 2]] });
});

test("a cached output is known where it shows the same", () => {
  const entry = { text: ["a"], images: [{ filename: "x.png" }], seconds: 3 };
  assert.ok(isKnown(entry, { text: ["a"], images: [{ filename: "x.png" }], losses: [{}] }));
  assert.ok(!isKnown(entry, { text: ["b"], images: [{ filename: "x.png" }] }));
  assert.ok(!isKnown(undefined, {}));
});

test("what is too long is cut, and whole for the pointer", () => {
  const { shown, whole } = lines({ state: "done", text: [..."abcdefghij"], seconds: 1 });
  assert.equal(shown.length, 7);
  assert.equal(whole.length, 11);
});

test("a node is found by its full id only", () => {
  const inner = { getNodeById: (id) => (String(id) === "5" ? { id: 5, name: "inner" } : null) };
  const nodes = { 3: { id: 3, subgraph: inner }, 5: { id: 5, name: "outer" } };
  const graph = { getNodeById: (id) => nodes[id] ?? null };
  assert.equal(nodeAt(graph, "3:5").name, "inner");
  assert.equal(nodeAt(graph, "5").name, "outer");
  assert.equal(nodeAt(graph, "3:6"), undefined);
  assert.equal(nodeAt(graph, "4:5"), undefined);
  assert.equal(nodeAt(undefined, "5"), undefined);
});

test("every phrase is there in every language", () => {
  const { en, ...others } = phrases();
  for (const names of Object.values(others)) assert.deepEqual(names, en);
  speak("zh-CN");
  assert.equal(word("step", 1, 2), "第 1 步，共 2 步");
  speak("fr");
  assert.equal(word("working"), "working");
  assert.equal(duration(undefined), "–");
});
