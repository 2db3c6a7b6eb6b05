/**
 * What surrounds the conversation on the demo page, in a real Chromium: starting without a network, new
 * versions, models, the keyboard, accessibility, markdown, how it looks. Takes the screenshots on the
 * way. Needs `node web/build.mjs` before; the settings are in page-support.mjs.
 */
import assert from "node:assert/strict";
import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { SITE } from "../../web/serve.mjs";
import {
  AXE_FILE,
  answer,
  checkBuild,
  drop,
  memory,
  newFolder,
  open,
  phaseOf,
  press,
  ready,
  say,
  serve,
  serveSlowly,
  settle,
  shot,
  withBrowser,
} from "./page-support.mjs";

const BEES = "My name is Ada, and I keep bees behind the house.";
let server;
let address;

before(async () => {
  await checkBuild();
  server = await serve();
  address = server.address;
});

after(() => server?.stop());

const inBrowser = (job, options) => withBrowser(address, job, options);
const lastReply = (page) => page.locator(".message.assistant").last();
const toast = (page, text) => page.locator(".toast", { hasText: text }).waitFor();

test("after the first visit the page starts and answers without a network", async () => {
  const own = await serve();
  let isUp = true;
  try {
    await withBrowser(own.address, async (context, problems) => {
      const page = await open(context, own.address);
      await page.waitForFunction(() => document.documentElement.dataset.offline === "ready");
      assert.ok(await page.getByText("Works without a network").isVisible());
      await say(page, BEES);
      const before = await memory(page);
      await own.stop();
      isUp = false;
      await context.setOffline(true);
      await page.reload();
      await ready(page);
      assert.deepEqual(await memory(page), before);
      await say(page, "Are you there?");
      assert.equal((await memory(page)).generation, 2);
      // The browser looks for a new version of the service worker and says that it found none.
      const rest = problems.filter((problem) => !/sw\.js|ERR_INTERNET_DISCONNECTED/.test(problem));
      problems.splice(0, problems.length, ...rest);
    });
  } finally {
    if (isUp) await own.stop();
  }
});

test("a new version waits until the person takes it", async () => {
  const site = await newFolder();
  await cp(SITE, site, { recursive: true });
  const own = await serve(site);
  const rewrite = async (name, from, to) => {
    const text = await readFile(join(site, name), "utf8");
    assert.match(text, from);
    await writeFile(join(site, name), text.replace(from, to));
  };
  try {
    await withBrowser(own.address, async (context) => {
      const page = await open(context, own.address);
      await page.waitForFunction(() => document.documentElement.dataset.offline === "ready");
      const title = await page.title();
      await rewrite("index.html", /<title>[^<]*/, "<title>The next version");
      await rewrite("sw.js", /"index\.html": ?"\w+"/, '"index.html": "0123456789abcdef"');
      await page.reload();
      await ready(page);
      assert.equal(await page.title(), title);
      await page.getByText("A new version of this page is ready").waitFor();
      await say(page, BEES);
      await page.locator('.banner[data-key="update"]').getByRole("button").click();
      await page.waitForFunction(() => document.title === "The next version");
      await ready(page);
      assert.equal((await memory(page)).generation, 1);
    });
  } finally {
    await own.stop();
    await drop(site);
  }
});

test("everything can be done with the keyboard", async () => {
  await inBrowser(async (context) => {
    const page = await open(context, address);
    const focused = () =>
      page.evaluate(() => {
        const { activeElement } = document;
        return activeElement.id || activeElement.getAttribute("aria-label") || activeElement.textContent.trim();
      });
    const tabTo = async (id) => {
      for (let steps = 0; steps < 80; steps += 1) {
        if ((await focused()) === id) return;
        await page.keyboard.press("Tab");
      }
      assert.fail(`#${id} cannot be reached with Tab`);
    };
    const outline = () =>
      page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);

    assert.equal(await focused(), "prompt");
    await page.keyboard.type("Hello there");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("on two lines.");
    await page.keyboard.press("Enter");
    await settle(page);
    assert.equal(await focused(), "prompt");
    assert.equal(await page.locator(".message.user").count(), 1);

    await tabTo("Skip to the message field");
    await page.keyboard.press("Enter");
    assert.equal(await focused(), "prompt");
    await tabTo("open-models");
    assert.notEqual(await outline(), "none");
    await page.keyboard.press("Enter");
    await page.locator("#models-dialog[open]").waitFor();
    await page.keyboard.press("Escape");
    assert.equal(await focused(), "open-models");
    await tabTo("open-profiles");
    await tabTo("ephemeral");
    await tabTo("theme");
    await page.keyboard.press("Space");
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "light");
    await tabTo("toggle-memory");
    await page.keyboard.press("Enter");
    assert.equal(await page.locator("#memory").isVisible(), false);
    await page.keyboard.press("Enter");
    assert.equal(await page.locator("#memory").isVisible(), true);
    await tabTo("compare");
    await tabTo("undo");
    await page.keyboard.press("Enter");
    await settle(page);
    assert.equal((await memory(page)).ledger, 0);
    assert.equal(await focused(), "undo");
    await tabTo("forget");
    await page.keyboard.press("Enter");
    // Nothing is lost by pressing Enter once more.
    assert.equal(await focused(), "ask-cancel");
    await page.keyboard.press("Enter");
    assert.equal(await focused(), "forget");
    await page.keyboard.press("/");
    assert.equal(await focused(), "prompt");
  });
});

test("no serious accessibility problem in either theme", async () => {
  const axe = await readFile(AXE_FILE, "utf8");
  await inBrowser(async (context) => {
    const page = await open(context, address);
    await page.evaluate(axe);
    const check = async (where) => {
      const violations = await page.evaluate(async () => {
        // Colours that are still changing are nobody's problem.
        await Promise.all(document.getAnimations().map((each) => each.finished.catch(() => undefined)));
        const { violations } = await axe.run(document, { resultTypes: ["violations"] });
        return violations
          .filter(({ impact }) => impact === "serious" || impact === "critical")
          .map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map(({ html }) => html.slice(0, 120)).join(" | ")}`);
      });
      assert.deepEqual(violations, [], where);
    };
    const inBoth = async (where) => {
      for (const colorScheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
        await check(`${where}, ${colorScheme}`);
      }
    };
    await inBoth("nothing said yet");
    await say(page, BEES);
    await page.getByRole("button", { name: "With and without memory" }).click();
    await say(page, "What do I keep?");
    await page.getByText("Earlier states").click();
    await page.getByText("Numbers of each layer").click();
    await inBoth("a conversation");
    await page.reload();
    await ready(page);
    await page.evaluate(axe);
    await inBoth("the conversation of before");
    for (const [button, id] of [
      ["#open-models", "models-dialog"],
      ["#open-profiles", "profiles-dialog"],
      ["#write", "ask-dialog"],
      ["#open-about-2", "about-dialog"],
    ]) {
      await page.locator(button).click();
      await page.locator(`#${id}[open]`).waitFor();
      await inBoth(id);
      await page.keyboard.press("Escape");
    }
    await page.setViewportSize({ width: 390, height: 844 });
    await inBoth("on a phone");
    await page.locator("#toggle-memory").click();
    await inBoth("the memory on a phone");
  });
});

test("a model's host is asked only when it is wanted; own models load, stay and go", async () => {
  await inBrowser(async (context) => {
    const page = await open(context, address);
    await page.locator("#open-models").click();
    const dialog = page.locator("#models-dialog");
    // A request to another place is a problem that fails this test.
    await dialog.getByText("from huggingface.co").first().waitFor();
    await dialog.getByText("A model of your own").click();
    await dialog.getByLabel("Address of a GGUF file").fill(`${address}models/nano`);
    await dialog.getByLabel("Weights on the GPU").selectOption("f32");
    await dialog.getByRole("button", { name: "Add", exact: true }).click();
    const card = dialog.locator(".model").last();
    await card.getByRole("button", { name: "Download and use" }).click();
    await dialog.waitFor({ state: "hidden" });
    await ready(page);
    assert.notEqual(await page.locator("#model-name").textContent(), "nano");
    await say(page, BEES);
    assert.equal((await memory(page)).generation, 1);

    await page.locator("#open-models").click();
    await dialog.getByRole("button", { name: "Use (nano)" }).click();
    await dialog.waitFor({ state: "hidden" });
    await ready(page);
    assert.equal(await page.locator("#model-name").textContent(), "nano");
    await page.locator("#open-models").click();
    await card.getByRole("button", { name: "Remove" }).click();
    await answer(page, {}, "Remove");
    await toast(page, "was removed");
    assert.equal(await dialog.getByText("Added by you").count(), 0);
  });
});

test("a download is paused and resumed while the talk goes on", async () => {
  const host = await serveSlowly(join(SITE, "models/nano/"));
  try {
    await inBrowser(async (context, problems) => {
      const page = await open(context, address);
      await page.locator("#open-models").click();
      const dialog = page.locator("#models-dialog");
      await dialog.getByText("A model of your own").click();
      await dialog.getByLabel("Address of a GGUF file").fill(host.address);
      await dialog.getByLabel("Weights on the GPU").selectOption("f32");
      await dialog.getByRole("button", { name: "Add", exact: true }).click();
      const card = dialog.locator(".model").last();
      assert.deepEqual(host.asked, []);
      await card.getByRole("button", { name: "Does it fit?" }).click();
      await card.getByText("It fits on this GPU").waitFor();
      await card.getByRole("button", { name: "Download and use" }).click();
      await card.getByText(/Downloading: \d+ %/).waitFor();
      await page.keyboard.press("Escape");
      await say(page, BEES);
      await page.locator("#open-models").click();
      await card.getByRole("button", { name: "Pause" }).click();
      const go = card.getByRole("button", { name: /^(Resume|Download and use)/ });
      await go.waitFor();
      assert.equal(await page.locator("#model-name").textContent(), "nano");

      host.hurry();
      await go.click();
      await dialog.waitFor({ state: "hidden" });
      await ready(page);
      assert.notEqual(await page.locator("#model-name").textContent(), "nano");
      await say(page, "And here?");
      const own = problems.filter((problem) => !problem.includes(host.address));
      problems.splice(0, problems.length, ...own);
    });
  } finally {
    await host.stop();
  }
});

test("what a model writes becomes text, never markup, and fetches nothing", async () => {
  await inBrowser(async (context) => {
    const page = await open(context, address);
    await say(page, BEES);
    const reply = [
      "# A heading\n\n**bold** `code` &amp; *more*",
      "<img src=x onerror=alert(1)><script>alert(1)</script>",
      "[bad](javascript:alert(1)) [good](https://example.org/) ![image](https://example.org/x.png)",
      "```html\n<b>kept</b>\n```\n\n- one\n- two\n\n| a | b |\n|---|--:|\n| 1 | 2 |",
    ].join("\n\n");
    await page.evaluate(async (text) => {
      const settled = (request) => new Promise((resolve) => (request.onsuccess = () => resolve(request.result)));
      const database = await settled(indexedDB.open("deltamem"));
      const store = database.transaction("transcripts", "readwrite").objectStore("transcripts");
      const [turn] = await settled(store.getAll());
      await settled(store.put({ ...turn, reply: text }));
      database.close();
    }, reply);
    await page.reload();
    await ready(page);
    const body = lastReply(page).locator(".body");
    assert.equal(await body.locator("img, script, iframe").count(), 0);
    assert.deepEqual(await body.locator("a").evaluateAll((links) => links.map(({ href }) => href)), [
      "https://example.org/",
      "https://example.org/x.png",
    ]);
    assert.equal(await body.locator("h4").textContent(), "A heading");
    assert.equal(await body.locator("strong").textContent(), "bold");
    assert.match(await body.innerText(), /code & more[\s\S]*onerror=alert/);
    assert.equal(await body.locator("pre").textContent(), "<b>kept</b>");
    assert.equal(await body.locator("li").count(), 2);
    assert.equal(await body.locator("td.number").textContent(), "2");
  });
});

test("without WebGPU the page says what to do", async () => {
  await inBrowser(async (context) => {
    const page = await context.newPage();
    await page.addInitScript(() => {
      Object.defineProperty(Navigator.prototype, "gpu", { get: () => undefined });
    });
    await page.goto(address);
    await page.locator("#failure").waitFor();
    assert.match(await page.locator("#failure-text").textContent(), /WebGPU.*\(no_adapter\)/);
    assert.ok(await page.getByLabel("Your message").isDisabled());
    await page.getByRole("button", { name: "Try again" }).click();
    await page.locator("#failure").waitFor();
    assert.equal(await phaseOf(page), "failed");
    await shot(page, "no-webgpu");
  });
});

test("light, dark, on a phone: nothing is cut off", async () => {
  await inBrowser(async (context) => {
    const page = await open(context, address);
    await say(page, "My name is Ada and I live in Lisbon.");
    await press(page, "New chat");
    await say(page, "Where do I live?");
    await page.waitForTimeout(700); // the pictures of the states move
    await shot(page, "light");
    await page.emulateMedia({ colorScheme: "dark" });
    await page.waitForTimeout(300); // colours change gently
    await shot(page, "dark");
    await shot(page.locator("#memory"), "memory");
    for (const width of [320, 390, 820]) {
      for (const isOpen of [false, true]) {
        await page.setViewportSize({ width, height: 844 });
        if (isOpen) await page.locator("#toggle-memory").click();
        const overflow = await page.evaluate(
          () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
        );
        assert.equal(overflow, 0, `the page scrolls sideways at ${width} pixels`);
        const cut = await page.evaluate(() =>
          [...document.querySelectorAll("button, .pill, .badge, dd")]
            .filter((each) => each.checkVisibility() && !each.closest("[inert]"))
            .filter((each) => {
              const { left, right } = each.getBoundingClientRect();
              return left < 0 || right > innerWidth;
            })
            .map(({ outerHTML }) => outerHTML.slice(0, 100)),
        );
        assert.deepEqual(cut, [], `cut off at ${width} pixels`);
        if (isOpen) await page.locator("#close-memory").click();
      }
    }
    await page.emulateMedia({ colorScheme: "light" });
    await page.setViewportSize({ width: 390, height: 844 });
    await page.waitForTimeout(300); // colours change gently
    await shot(page, "phone");
  });
});
