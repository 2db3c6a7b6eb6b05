/**
 * A hand on the GPU device of this worker: counts its submissions, and destroys it after some of them
 * when told to over the channel `device`, or by the worker's address (`?destroyAfter=N`).
 */
const channel = new BroadcastChannel("device");
let device = null;
let submissions = 0;
/** How many submissions the device has left; null: all it wants. */
let left = null;

const destroyAfter = (count) => {
  if (count > 0) left = count;
  else device?.destroy();
};

const { requestDevice } = GPUAdapter.prototype;
GPUAdapter.prototype.requestDevice = async function (...options) {
  device = await requestDevice.apply(this, options);
  return device;
};

const { submit } = GPUQueue.prototype;
GPUQueue.prototype.submit = function (commands) {
  submit.call(this, commands);
  submissions += 1;
  if (left === null) return;
  left -= 1;
  if (left > 0) return;
  left = null;
  device.destroy();
};

channel.onmessage = ({ data }) => {
  if (typeof data.destroyAfter === "number") destroyAfter(data.destroyAfter);
  if (data.id !== undefined) channel.postMessage({ answers: data.id, submissions });
};

const asked = new URLSearchParams(location.search).get("destroyAfter");
if (asked !== null) left = Number(asked);
