// A durable flow of one step, and of three, against the receiving server. Usage: node service.mjs PORT URL
import http from "node:http";
import * as restate from "@restatedev/restate-sdk";

const [port, url] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true, maxSockets: 64 });

const ask = () =>
  new Promise((resolve, reject) => {
    const request = http.get(url, { agent }, (answer) => {
      answer.resume();
      answer.on("end", () =>
        answer.statusCode === 200 ? resolve(answer.statusCode) : reject(new Error(`status ${answer.statusCode}`)),
      );
    });
    request.on("error", reject);
  });

const flow = (steps) => async (ctx) => {
  let last;
  for (let i = 0; i < steps; i++) last = await ctx.run(`call ${i}`, ask);
  return last;
};

const probe = restate.service({ name: "probe", handlers: { one: flow(1), three: flow(3) } });
restate.endpoint().bind(probe).listen(Number(port));
