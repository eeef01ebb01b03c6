// Run with: node --test tests/web
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import test from "node:test";

const WEB = new URL("../../web/", import.meta.url);

for (const name of readdirSync(WEB).filter((one) => /\.m?js$/.test(one))) {
  test(`${name} can be read by a browser`, () => {
    const input = readFileSync(new URL(name, WEB));
    const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "--check", "-"], { input });
    assert.equal(status, 0, String(stderr));
  });
}
