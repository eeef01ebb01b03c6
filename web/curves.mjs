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

// One colour per name wherever it appears; what tells most comes first.
const COLOURS = {
  patch: "#5fb3f6", lpips: "#f6a35f", adversarial: "#7bd67b", clip: "#e57bd0", deviation: "#e5d25a",
  semantic: "#b79bf5", pixel: "#f57b7b", generator: "#6fd6cf", discriminator: "#c9c9c9", r1: "#a58b6f",
  l2: "#e5d25a",
};
const SPARE = ["#9fd0ff", "#ffc79b", "#b3ecb3", "#f2b3e6"];
const AT_FIRST = 3;

/** The colour of a curve. */
export function colourOf(name) {
  const sum = [...name].reduce((total, letter) => total + letter.charCodeAt(0), 0);
  return COLOURS[name] ?? SPARE[sum % SPARE.length];
}

/** Names that are drawn: the three that tell most, and what was clicked. */
export function visible(names, choices) {
  const order = Object.keys(COLOURS);
  const rank = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  const first = [...names].sort((a, b) => rank(a) - rank(b)).slice(0, AT_FIRST);
  return names.filter((name) => choices.get(name) ?? first.includes(name));
}

/** The value of a curve at a step: the last one up to it, else the first. */
export function nearest(points, step) {
  if (step === undefined) return points.at(-1)[1];
  return (points.findLast(([at]) => at <= step) ?? points[0])[1];
}

/** Seconds as 1:05 or 2:03:00. */
export function clock(seconds) {
  const whole = Math.round(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  const [hours, minutes, rest] = parts.map((part, at) => (at ? String(part).padStart(2, "0") : part));
  return hours ? `${hours}:${minutes}:${rest}` : `${parts[1]}:${rest}`;
}
