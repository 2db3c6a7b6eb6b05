/**
 * The service worker's side on the page: registers it, and offers a new version when one is ready.
 * A running page keeps its version until the person takes the new one.
 */
import { banner } from "./page.js";

export async function startOffline(): Promise<void> {
  const workers = navigator.serviceWorker as ServiceWorkerContainer | undefined;
  if (!workers || !import.meta.env.PROD) return;
  try {
    const registration = await workers.register(new URL("sw.js", document.baseURI), {
      updateViaCache: "none",
    });
    const offer = () => {
      const waiting = registration.waiting;
      if (!waiting || !workers.controller) return;
      banner("update", "A new version of this page is ready.", {
        action: {
          label: "Reload",
          run() {
            workers.addEventListener("controllerchange", () => location.reload(), { once: true });
            waiting.postMessage("take-over");
          },
        },
      });
    };
    offer();
    void workers.ready.then(() => (document.documentElement.dataset["offline"] = "ready"));
    registration.addEventListener("updatefound", () => {
      registration.installing?.addEventListener("statechange", offer);
    });
  } catch {
    // Without a service worker (a private window, say) the page works as long as there is a network.
    document.documentElement.dataset["offline"] = "unavailable";
  }
}
