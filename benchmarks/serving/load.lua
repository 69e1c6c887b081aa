-- wrk: the bodies of a file in turn, one a line; the figures as one line of JSON.
-- wrk -s load.lua URL -- BODIES PATH [HEADER: VALUE …]

local requests, turn = {}, 0

function init(arguments)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  for i = 3, #arguments do
    local name, value = arguments[i]:match("^([^:]+):%s*(.*)$")
    wrk.headers[name] = value
  end
  for line in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format(nil, arguments[2], nil, line)
    wrk.body = line
  end
  wrk.path = arguments[2]
  if #requests > 1 then
    -- Without this function wrk sends one request again and again and is a little faster.
    function request()
      turn = turn % #requests + 1
      return requests[turn]
    end
  end
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'figures {"requests": %d, "seconds": %.6f, "p50_ms": %.6f, "p90_ms": %.6f, "p99_ms": %.6f, ' ..
    '"max_ms": %.6f, "mean_ms": %.6f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(90) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    latency.mean / 1e3, e.status, e.connect + e.read + e.write + e.timeout))
end
