// Loaded into kinesis-local before its own program: it listens on every address, on ports to be known beforehand, and
// outlives whoever started it. Here it listens on 127.0.0.1, says where, and ends with its standard input.
const net = require("net");
const tls = require("tls");

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  this.once("listening", () => {
    if (!(this instanceof tls.Server)) console.log(`listening on ${this.address().port}`);
  });
  return listen.call(this, { port: Number(port), host: "127.0.0.1" }, ...rest);
};

process.stdin.on("end", () => process.exit(0)).resume();
