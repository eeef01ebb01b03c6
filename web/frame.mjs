// A picture with the square of it that is used: dragged, zoomed by the wheel, moved by the arrow keys.

import { word } from "./words.mjs";

const MOST_ZOOM = 16;
const STEP = 0.05; // of an offset, per key
const TURN = 100; // px that a mouse's wheel scrolls at least by one turn

/** Where the square lies on a picture of that size: left, top and side in its pixels. */
export function square(width, height, { zoom, offset_x, offset_y }) {
  const side = Math.max(1, Math.round(Math.min(width, height) / zoom));
  const place = (room, offset) => Math.trunc((room * (1 + offset)) / 2);
  return { left: place(width - side, offset_x), top: place(height - side, offset_y), side };
}

/** The offsets after the square was moved by so many pixels of the picture; where there is no room it stays. */
export function moved(width, height, frame, right, down) {
  const { side } = square(width, height, frame);
  const next = (offset, by, room) => (room > 0 ? bounded(offset + (2 * by) / room, -1, 1) : offset);
  return {
    ...frame,
    offset_x: next(frame.offset_x, right, width - side),
    offset_y: next(frame.offset_y, down, height - side),
  };
}

/** The zoom after turns of the wheel, in the two decimals of its input. */
export function zoomed(frame, turns) {
  return { ...frame, zoom: bounded(frame.zoom * 1.1 ** turns, 1, MOST_ZOOM) };
}

function bounded(value, least, most) {
  return Math.round(Math.min(most, Math.max(least, value)) * 100) / 100;
}

/**
 * Make the element; `show(src, frame)` draws a picture with its square, or nothing without a picture.
 *
 * @param {(frame: object) => void} choose - gets zoom and offsets that the user chose.
 */
export function framePicker(choose) {
  const element = document.createElement("div");
  element.dataset.oneshotFrame = "";
  element.tabIndex = 0;
  element.dataset.captureWheel = "true"; // or Vue nodes give the wheel to the canvas; they ask for the focus, too
  element.style.cssText = "position:relative;display:none;margin:auto;max-width:100%;cursor:move;overflow:hidden;touch-action:none";
  const picture = document.createElement("img");
  picture.alt = "";
  picture.draggable = false;
  picture.style.cssText = "display:block;max-width:100%;max-height:260px;pointer-events:none";
  const box = document.createElement("div");
  box.style.cssText = "position:absolute;outline:2px solid #5fb3f6;box-shadow:0 0 0 2000px #000a;pointer-events:none";
  element.append(picture, box);
  let frame = { fit: "crop", zoom: 1, offset_x: 0, offset_y: 0 };
  let from; // where a drag began
  let scrolled = 0;

  const size = () => [picture.naturalWidth, picture.naturalHeight];

  function place() {
    const [width, height] = size();
    box.style.display = frame.fit === "crop" && width ? "" : "none";
    if (!width) return;
    const { left, top, side } = square(width, height, frame);
    Object.assign(box.style, {
      left: `${(100 * left) / width}%`,
      top: `${(100 * top) / height}%`,
      width: `${(100 * side) / width}%`,
      height: `${(100 * side) / height}%`,
    });
  }

  function take(next) {
    if (frame.fit !== "crop") return;
    frame = next;
    place();
    choose(frame);
  }

  picture.onload = place;
  element.onpointerdown = (event) => {
    element.setPointerCapture(event.pointerId);
    element.focus();
    event.stopPropagation();
    from = { frame, x: event.clientX, y: event.clientY };
  };
  element.onpointermove = (event) => {
    if (!event.buttons || !from) return;
    const [width, height] = size();
    // Of a zoomed canvas the page's pixels are not the picture's. From the start each time: offsets are rounded.
    const scale = width / picture.getBoundingClientRect().width;
    take(moved(width, height, from.frame, (event.clientX - from.x) * scale, (event.clientY - from.y) * scale));
  };
  element.onwheel = (event) => {
    if (frame.fit !== "crop" || !event.deltaY) return;
    event.preventDefault();
    event.stopPropagation();
    scrolled -= event.deltaY * (event.deltaMode ? TURN / 3 : 1); // some browsers count lines, three a turn
    const turns = Math.trunc(scrolled / TURN); // a mouse gives whole turns, a touch pad hundreds of small parts
    scrolled -= turns * TURN;
    if (turns) take(zoomed(frame, turns));
  };
  element.onkeydown = (event) => {
    const { key } = event;
    if (frame.fit !== "crop" || event.ctrlKey || event.metaKey || event.altKey) return;
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key] ?? [0, 0];
    const turns = { "+": 1, "-": -1 }[key] ?? 0;
    if (!x && !y && !turns) return;
    event.preventDefault();
    event.stopPropagation(); // the canvas would move the node
    const step = (offset, by) => bounded(offset + STEP * by, -1, 1);
    if (turns) take(zoomed(frame, turns));
    else take({ ...frame, offset_x: step(frame.offset_x, x), offset_y: step(frame.offset_y, y) });
  };

  return {
    element,
    show(src, now) {
      frame = now;
      element.style.display = src ? "" : "none";
      element.style.width = "fit-content";
      element.title = word("frame");
      if (src && picture.getAttribute("src") !== src) picture.src = src;
      place();
    },
  };
}
