// What a node does, as data: entries of the server's board, and the lines that the node shows of them.

import { clock, mergePoints } from "./curves.mjs";
import { word } from "./words.mjs";

/** Nodes whose work is kept when it is cancelled. */
export const KEPT = new Set(["OneShotAdapt", "CLIPLatentSearch"]);
const LINES = 7;

/** Add what the server told of a node to what is known; another prompt starts anew. */
export function merged(known, told) {
  const same = known?.prompt_id === told.prompt_id && known?.node === told.node;
  return { ...(same ? known : {}), ...told, points: mergePoints(same ? known.points : {}, told.points) };
}

/** An entry of what a node's output shows, for one that was taken from a cache. */
export function ofOutput(place, output) {
  const { losses, ...shown } = output ?? {};
  return { ...place, ...shown, state: "done", points: losses?.[0] ?? {} };
}

/** Whether a cached output is that of the run which is known: then its entry says more, such as the time it took. */
export function isKnown(entry, output) {
  const shown = ({ text, images, pairs }) => JSON.stringify([text, images, pairs]);
  return entry !== undefined && shown(entry) === shown(output ?? {});
}

/** The parts of an execution id: `3:5` is node 5 in the subgraph node 3. */
export function path(id) {
  return String(id).split(":");
}

/** Find a node of a graph by its execution id; undefined where it is gone. */
export function nodeAt(graph, id) {
  let place = graph;
  let node;
  for (const part of path(id)) {
    node = place?.getNodeById?.(part) ?? place?.getNodeById?.(Number(part));
    place = node?.subgraph;
  }
  return node ?? undefined;
}

/** How far a node is, while it works. */
export function progress({ step, steps, eta }) {
  if (!steps) return word("working");
  const far = word("step", step, steps);
  return Number.isFinite(eta) && step < steps ? `${far}, ${word("left", clock(eta))}` : far;
}

/** The lines that a node shows, and whether they tell of an error. */
export function lines(entry) {
  if (!entry?.state) return { shown: [], whole: [], wrong: false };
  const whole = { running: running, done: done, failed: failed, cancelled: cancelled }[entry.state](entry);
  return { shown: whole.slice(0, LINES), whole, wrong: entry.state === "failed" };
}

function running(entry) {
  return [progress(entry)];
}

function done(entry) {
  const text = (entry.status ?? entry.text ?? []).flatMap((one) => String(one).split("\n")).filter((one) => one.trim());
  return entry.seconds === undefined ? text : [...text, word("done", duration(entry.seconds))];
}

function failed(entry) {
  return String(entry.error || "").split("\n").filter((one) => one.trim());
}

function cancelled(entry) {
  return [word(KEPT.has(entry.node_type) && entry.step ? "kept" : "cancelled")];
}

/** Seconds in words. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  return seconds < 10 ? `${seconds.toFixed(1)} s` : clock(seconds);
}
