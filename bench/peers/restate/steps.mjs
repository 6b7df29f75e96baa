// A durable job of three steps that do nothing, on Restate's server with its Node SDK.
//
// usage: node steps.mjs FOLDER JOBS CALLERS
// Starts the server in FOLDER on free ports, prints one JSON document, stops the server.

import { spawn } from "node:child_process";
import { createServer } from "node:net";
import { createRequire } from "node:module";
import path from "node:path";
import fs from "node:fs";
import * as restate from "@restatedev/restate-sdk";

// The SDK wants a function that Node has since version 22.
Promise.withResolvers ??= function () {
  let resolve;
  let reject;
  const promise = new Promise((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
};

const [folder, jobsText, callersText] = process.argv.slice(2);
const jobs = Number(jobsText);
const callers = Number(callersText);

async function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

async function until(what, attempt) {
  const deadline = Date.now() + 60_000;
  for (;;) {
    try {
      if (await attempt()) return;
    } catch {
      // Not there yet.
    }
    if (Date.now() > deadline) throw new Error(`no ${what} within a minute`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const steps = restate.service({
  name: "steps",
  handlers: {
    job: async (ctx) => {
      const one = await ctx.run("one", () => 1);
      const two = await ctx.run("two", () => 2);
      const three = await ctx.run("three", () => 3);
      return one + two + three;
    },
  },
});

const [service, ingress, admin, node] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
await restate.serve({ services: [steps], port: service });

const require = createRequire(import.meta.url);
const launcher = path.join(path.dirname(require.resolve("@restatedev/restate-server/package.json")));
const bin = JSON.parse(fs.readFileSync(path.join(launcher, "package.json"), "utf8")).bin;
const program = path.join(launcher, typeof bin === "string" ? bin : Object.values(bin)[0]);
const server = spawn(process.execPath, [program, "--base-dir", folder], {
  stdio: ["ignore", "ignore", "inherit"],
  detached: true,
  env: {
    ...process.env,
    RESTATE_LOG_FILTER: "error",
    RESTATE_DISABLE_TELEMETRY: "true",
    RESTATE_INGRESS__BIND_ADDRESS: `127.0.0.1:${ingress}`,
    RESTATE_ADMIN__BIND_ADDRESS: `127.0.0.1:${admin}`,
    RESTATE_BIND_ADDRESS: `127.0.0.1:${node}`,
    RESTATE_ADVERTISED_ADDRESS: `http://127.0.0.1:${node}/`,
  },
});

try {
  await until("health", async () => (await fetch(`http://127.0.0.1:${admin}/health`)).ok);
  await until("registration", async () => {
    const answer = await fetch(`http://127.0.0.1:${admin}/deployments`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ uri: `http://127.0.0.1:${service}` }),
    });
    return answer.ok;
  });
  const job = async () => {
    const answer = await fetch(`http://127.0.0.1:${ingress}/steps/job`, { method: "POST" });
    if (!answer.ok) throw new Error(`the job answered ${answer.status}: ${await answer.text()}`);
    await answer.text();
  };
  for (let i = 0; i < 20; i++) await job();
  const times = [];
  for (let i = 0; i < jobs; i++) {
    const began = performance.now();
    await job();
    times.push(performance.now() - began);
  }
  times.sort((a, b) => a - b);
  const at = (part) => times[Math.min(times.length - 1, Math.floor(times.length * part))] * 1000;
  let left = jobs * 4;
  const began = performance.now();
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (left-- > 0) await job();
    }),
  );
  const together = (jobs * 4) / ((performance.now() - began) / 1000);
  console.log(
    JSON.stringify({ jobs, callers, p50_us: at(0.5), p99_us: at(0.99), jobs_per_second: together }),
  );
} finally {
  try {
    process.kill(-server.pid, "SIGKILL");
  } catch {
    // It has ended by itself.
  }
}
process.exit(0);
