// Loss curves as data: pure functions, tested without a browser.

/** Add points {name: [[step, value], ...]} of an event to curves {name: [[step, value], ...]}; later values win. */
export function mergePoints(curves, points) {
  const merged = { ...curves };
  for (const [name, added] of Object.entries(points ?? {})) {
    const known = new Map(merged[name] ?? []);
    for (const [step, value] of added) if (Number.isFinite(value)) known.set(step, value);
    merged[name] = [...known].sort((a, b) => a[0] - b[0]);
  }
  return merged;
}

/** Names worth drawing: scores of the discriminator are no losses. */
export function shownNames(curves) {
  return Object.keys(curves).filter((name) => !name.endsWith("_score") && curves[name].length > 0);
}

/** Mean over a window of neighbours, so that noisy curves can be read. */
export function smoothed(points, width) {
  return points.map(([step], index) => {
    const near = points.slice(Math.max(0, index - width), index + width + 1);
    return [step, near.reduce((sum, [, value]) => sum + value, 0) / near.length];
  });
}

/** Scale a curve into a box: x by step of the last step, y between its own least and greatest value. */
export function polyline(points, lastStep, width, height) {
  const values = points.map(([, value]) => value);
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  return points.map(([step, value]) => [
    (step / Math.max(1, lastStep)) * width,
    height - ((value - low) / span) * height,
  ]);
}

/** A number as short text. */
export function short(value) {
  if (!Number.isFinite(value)) return "–";
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

/** The legend: each name with its last value. */
export function legend(curves) {
  return shownNames(curves).map((name) => [name, short(curves[name].at(-1)[1])]);
}
