// A slider over two pictures of the same latent: left of it as it was, right of it adapted or edited.
// ComfyUI's own compare widget exists in newer versions only, and draws in Vue nodes only.

import { word } from "./words.mjs";

const PICTURE = "position:absolute;inset:0;width:100%;height:100%;object-fit:contain;pointer-events:none";

/** Make the slider's element; `show(pairs, names)` takes {before, after} with addresses, and names of the sides. */
export function compare() {
  const element = document.createElement("div");
  element.dataset.oneshotCompare = "";
  element.style.cssText = "display:none;flex-direction:column;gap:4px";
  const stage = document.createElement("div");
  stage.style.cssText = "position:relative;width:100%;max-width:420px;aspect-ratio:1;margin:auto;cursor:ew-resize;overflow:hidden";
  const [after, before] = [document.createElement("img"), document.createElement("img")];
  after.style.cssText = before.style.cssText = PICTURE;
  const line = document.createElement("div");
  line.style.cssText = "position:absolute;top:0;bottom:0;width:2px;background:#fff;pointer-events:none";
  const [left, right] = ["left", "right"].map((side) => {
    const label = document.createElement("span");
    label.style.cssText = `position:absolute;top:4px;${side}:6px;background:#000a;color:#fff;padding:0 4px;border-radius:3px;pointer-events:none`;
    return label;
  });
  stage.append(after, before, line, left, right);
  const bar = document.createElement("div");
  bar.style.cssText = "display:flex;gap:8px;align-items:center;max-width:420px;width:100%;margin:auto";
  const range = document.createElement("input");
  Object.assign(range, { type: "range", min: 0, max: 100, value: 50 });
  range.style.flex = "1";
  const next = document.createElement("button");
  next.type = "button";
  next.style.cssText = "background:#0004;color:inherit;border:0;border-radius:3px;padding:2px 8px;cursor:pointer;font:inherit";
  bar.append(range, next);
  element.append(stage, bar);
  let pairs = [];
  let names = [];
  let at = 0;

  function place() {
    const share = Number(range.value);
    before.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    line.style.left = `${share}%`;
  }

  function paint() {
    after.src = pairs[at].after;
    before.src = pairs[at].before;
    [left.textContent, right.textContent] = [before.alt, after.alt] = names.map((name) => word(name));
    range.title = range.ariaLabel = word("slider");
    next.title = word("next");
    next.textContent = `${at + 1}/${pairs.length} ›`;
    next.style.display = pairs.length > 1 ? "" : "none";
    place();
  }

  range.oninput = place;
  next.onclick = () => {
    at = (at + 1) % pairs.length;
    paint();
  };
  stage.onpointermove = (event) => {
    if (event.pointerType !== "mouse" && event.buttons === 0) return;
    // Of a zoomed canvas the page's pixels are not its own.
    const box = stage.getBoundingClientRect();
    range.value = Math.round(((event.clientX - box.left) / box.width) * 100);
    place();
  };

  return {
    element,
    show(found, sides) {
      [pairs, names] = [found, sides];
      at = Math.min(at, Math.max(0, pairs.length - 1));
      element.style.display = pairs.length ? "flex" : "none";
      if (pairs.length) paint();
    },
  };
}
