// Run with: node --test tests/web
import assert from "node:assert/strict";
import test from "node:test";
import {
  clock, colourOf, legend, mergePoints, nearest, polyline, short, shownNames, smoothed, visible,
} from "../../web/curves.mjs";

test("points are merged in the order of steps, later values win, what is not finite is left out", () => {
  const first = mergePoints({}, { a: [[2, 5], [1, 4]] });
  const second = mergePoints(first, { a: [[2, 6], [3, null], [4, NaN]], b: [[1, 1]] });
  assert.deepEqual(second, { a: [[1, 4], [2, 6]], b: [[1, 1]] });
  assert.deepEqual(first, { a: [[1, 4], [2, 5]] });
  assert.deepEqual(mergePoints(first, undefined), first);
});

test("curves of a run that ended take the place of all others", () => {
  assert.deepEqual(mergePoints({}, { a: [[1, 1], [3, 3]], b: [] }), { a: [[1, 1], [3, 3]], b: [] });
});

test("scores and empty curves are not drawn", () => {
  const curves = { lpips: [[1, 0.5]], real_score: [[1, 2]], empty: [] };
  assert.deepEqual(shownNames(curves), ["lpips"]);
  assert.deepEqual(legend(curves), [["lpips", "0.500"]]);
});

test("a curve fills its box, a flat one lies still", () => {
  assert.deepEqual(polyline([[0, 1], [10, 3]], 10, 100, 50), [[0, 50], [100, 0]]);
  assert.deepEqual(polyline([[5, 2]], 10, 100, 50), [[50, 50]]);
});

test("smoothing keeps the steps", () => {
  assert.deepEqual(smoothed([[1, 0], [2, 3], [3, 6]], 1), [[1, 1.5], [2, 3], [3, 4.5]]);
});

test("numbers are short", () => {
  assert.equal(short(1234.5), "1235");
  assert.equal(short(0.012345), "0.0123");
  assert.equal(short(NaN), "–");
});

test("three curves are drawn at first, the rest by click, each in its own colour everywhere", () => {
  const names = ["generator", "pixel", "lpips", "semantic", "patch", "other"];
  assert.deepEqual(visible(names, new Map()), ["lpips", "semantic", "patch"]);
  const choices = new Map([["pixel", true], ["patch", false]]);
  assert.deepEqual(visible(names, choices), ["pixel", "lpips", "semantic"]);
  assert.equal(new Set(names.map(colourOf)).size, names.length);
  assert.equal(colourOf("other"), colourOf("other"));
});

test("a pointed step reads the value up to it", () => {
  const points = [[2, 5], [4, 6], [9, 7]];
  assert.deepEqual([0, 4, 8, 99, undefined].map((step) => nearest(points, step)), [5, 6, 6, 7, 7]);
});

test("seconds are told as a clock", () => {
  assert.equal(clock(65.2), "1:05");
  assert.equal(clock(7383), "2:03:03");
});
