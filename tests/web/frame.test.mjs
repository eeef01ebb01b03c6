// Run with: node --test tests/web
import assert from "node:assert/strict";
import test from "node:test";
import { moved, square, zoomed } from "../../web/frame.mjs";
import { incoming } from "../../web/targets.mjs";

const FRAME = { fit: "crop", zoom: 1, offset_x: 0, offset_y: 0 };

test("the square lies where the node cuts it", () => {
  assert.deepEqual(square(400, 300, FRAME), { left: 50, top: 0, side: 300 });
  assert.deepEqual(square(400, 300, { ...FRAME, offset_x: 1 }), { left: 100, top: 0, side: 300 });
  assert.deepEqual(square(400, 300, { ...FRAME, zoom: 2, offset_x: -1, offset_y: 1 }), { left: 0, top: 150, side: 150 });
});

test("dragging moves the square by what the pointer moved, to the ends of the picture", () => {
  assert.equal(moved(400, 300, FRAME, 25, 10).offset_x, 0.5);
  assert.equal(moved(400, 300, FRAME, 25, 10).offset_y, 0); // no room
  assert.equal(moved(400, 300, FRAME, -500, 0).offset_x, -1);
});

test("a square is moved from where the drag began, so that rounding does not add up", () => {
  const whole = moved(1600, 900, FRAME, 100, 0).offset_x;
  assert.ok(Math.abs(whole - 0.29) < 0.006, `${whole}`);
});

test("the wheel zooms within bounds", () => {
  assert.equal(zoomed(FRAME, 1).zoom, 1.1);
  assert.equal(zoomed(FRAME, -5).zoom, 1);
  assert.equal(zoomed({ ...FRAME, zoom: 15.9 }, 3).zoom, 16);
});

test("the picture that comes in is found on the node before", () => {
  const api = { apiURL: (path) => `/api${path}` };
  const before = (origin) => ({ inputs: [{ name: "image", link: 1 }], getInputNode: () => origin });
  const file = { comfyClass: "LoadImage", id: 4, widgets: [{ name: "image", value: "a/b c.png" }] };
  const address = incoming(before(file), "image", api, {});
  assert.equal(address, "/api/view?filename=b+c.png&subfolder=a&type=input");
  const shown = { nodeOutputs: { 4: { images: [{ filename: "x.png", subfolder: "", type: "temp" }] } } };
  assert.match(incoming(before({ comfyClass: "Other", id: 4 }), "image", api, shown), /filename=x.png.*temp/);
  file.widgets[0].value = "y.png [output]";
  assert.match(incoming(before(file), "image", api, shown), /filename=y.png.*type=output/);
  const demo = { comfyClass: "OneShotDemoTarget", id: 5, widgets: [{ name: "look", value: "line art" }] };
  assert.match(incoming(before(demo), "image", api, {}), /demo_target\?look=line\+art/);
  assert.equal(incoming({ inputs: [{ name: "image", link: null }] }, "image", api, {}), undefined);
  assert.equal(incoming(before({ comfyClass: "Other", id: 6 }), "image", api, {}), undefined);
});
