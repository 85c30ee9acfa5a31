package stats

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// columns of HAProxy 2.6's CSV up to the one named "-", in its order, which later versions keep (management guide, section
// 9.1). What stands behind "-" is about HAProxy's own protocols.
const columns = "pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight," +
	"act,bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,throttle,lbtot,tracked,type,rate,rate_lim,rate_max," +
	"check_status,check_code,check_duration,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,hanafail,req_rate," +
	"req_rate_max,req_tot,cli_abrt,srv_abrt,comp_in,comp_out,comp_byp,comp_rsp,lastsess,last_chk,last_agt,qtime,ctime,rtime," +
	"ttime,agent_status,agent_code,agent_duration,check_desc,agent_desc,check_rise,check_fall,check_health,agent_rise," +
	"agent_fall,agent_health,addr,cookie,mode,algo,conn_rate,conn_rate_max,conn_tot,intercepted,dcon,dses,wrew,connect,reuse," +
	"cache_lookups,cache_hits,srv_icur,src_ilim,qtime_max,ctime_max,rtime_max,ttime_max,eint,idle_conn_cur,safe_conn_cur," +
	"used_conn_cur,need_conn_est,uweight,agg_server_status,agg_server_check_status,agg_check_status,-"

// Columns are the names of the columns, in order.
func Columns() []string { return strings.Split(columns, ",") }

var places = func() map[string]int {
	m := map[string]int{}
	for i, name := range Columns() {
		m[name] = i
	}
	return m
}()

// Types of rows, as HAProxy numbers them.
const (
	typeFrontend = 0
	typeBackend  = 1
	typeServer   = 2
)

// row is one line of the table; what HAProxy leaves empty is empty.
type row struct {
	kind, id, server int
	cells            []string
	isText           map[int]bool
}

func newRow(kind, id, server int, proxy, name string) *row {
	r := &row{kind: kind, id: id, server: server, cells: make([]string, len(places)), isText: map[int]bool{}}
	r.text("pxname", proxy)
	r.text("svname", name)
	r.number("pid", 1) // HAProxy's number of the process, not the kernel's
	r.number("iid", id)
	r.number("sid", server)
	r.number("type", kind)
	r.text("mode", "http")
	r.text("-", "-")
	return r
}

func (r *row) text(column, value string) {
	i := places[column]
	r.cells[i] = value
	r.isText[i] = true
}

func number[T int | int64 | uint64](r *row, column string, value T) {
	r.cells[places[column]] = strconv.FormatInt(int64(value), 10)
}

func (r *row) number(column string, value int) { number(r, column, value) }

func (r *row) numbers(columns string, values ...uint64) {
	for i, column := range strings.Split(columns, ",") {
		number(r, column, values[i])
	}
}

// traffic sets what all rows have.
func (r *row) traffic(v *Values) {
	number(r, "scur", v.Current)
	number(r, "smax", v.Peak)
	r.numbers("stot,bin,bout,rate,rate_max", v.Count(Sessions), v.Count(BytesIn), v.Count(BytesOut), v.SessionRate, v.SessionRateMax)
	r.numbers("hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other",
		v.Count(Status1xx), v.Count(Status2xx), v.Count(Status3xx), v.Count(Status4xx), v.Count(Status5xx), v.Count(StatusOther))
	r.numbers("dresp,wrew,eint", 0, 0, 0)
}

// behind sets what backends and servers have.
func (r *row) behind(v *Values, now time.Time) {
	r.numbers("econ,eresp,wretr,wredis,lbtot,cli_abrt,srv_abrt,connect,reuse", v.Count(ConnectErrors), v.Count(ResponseErrors),
		v.Count(Retries), v.Count(Redispatches), v.Count(Balanced), v.Count(ClientAborts), v.Count(ServerAborts), v.Count(Connects), v.Count(Reuses))
	last := int64(-1)
	if !v.Last.IsZero() {
		last = seconds(now.Sub(v.Last))
	}
	number(r, "lastsess", last)
	for a, column := range [averages]string{"qtime", "ctime", "rtime", "ttime"} {
		number(r, column, v.Average[a].Milliseconds())
		number(r, column+"_max", v.Max[a].Milliseconds())
	}
}

func seconds(d time.Duration) int64 { return int64(max(d, 0) / time.Second) }

func (f *Frontend) row() *row {
	r := newRow(typeFrontend, f.ID, 0, f.Name, "FRONTEND")
	r.traffic(&f.Values)
	r.text("status", "OPEN")
	r.number("slim", f.MaxConn)
	r.numbers("dreq,ereq,rate_lim,req_rate,req_rate_max,req_tot,conn_rate,conn_rate_max,conn_tot,intercepted",
		f.Count(DeniedRequests), f.Count(RequestErrors), 0, f.RequestRate, f.RequestRateMax, f.Count(Requests),
		f.SessionRate, f.SessionRateMax, f.Count(Sessions), f.Count(Intercepted))
	r.numbers("comp_in,comp_out,comp_byp,comp_rsp,dcon,dses,cache_lookups,cache_hits", 0, 0, 0, 0, 0, 0, 0, 0)
	return r
}

func (b *Backend) row(now time.Time) *row {
	r := newRow(typeBackend, b.ID, 0, b.Name, "BACKEND")
	r.traffic(&b.Values)
	r.behind(&b.Values, now)
	number(r, "qcur", b.Queue)
	number(r, "qmax", b.QueuePeak)
	r.text("status", b.Status())
	active, backup, weight := b.Strength()
	r.number("weight", weight)
	r.number("act", active)
	r.number("bck", backup)
	number(r, "chkdown", b.TimesDown)
	number(r, "lastchg", seconds(now.Sub(b.LastChange)))
	number(r, "downtime", seconds(b.Downtime))
	r.numbers("dreq,req_tot", b.Count(DeniedRequests), b.Count(Requests))
	r.numbers("comp_in,comp_out,comp_byp,comp_rsp,cache_lookups,cache_hits", 0, 0, 0, 0, 0, 0)
	number(r, "uweight", int64(weight))
	r.numbers("agg_server_status,agg_server_check_status,agg_check_status", 0, 0, 0)
	return r
}

func (s *Server) row(b *Backend, now time.Time) *row {
	r := newRow(typeServer, b.ID, s.ID, b.Name, s.Name)
	r.traffic(&s.Values)
	r.behind(&s.Values, now)
	number(r, "qcur", s.Queue)
	number(r, "qmax", s.QueuePeak)
	if s.MaxConn > 0 {
		r.number("slim", s.MaxConn)
	}
	r.text("status", s.Status)
	r.number("weight", s.Weight)
	r.number("uweight", s.WantedWeight)
	r.number("act", 0)
	r.number("bck", 0)
	if s.Backup {
		r.number("bck", 1)
	} else {
		r.number("act", 1)
	}
	number(r, "lastchg", seconds(now.Sub(s.LastChange)))
	if s.Check.Status != "" {
		number(r, "chkfail", s.Check.Failed)
		number(r, "chkdown", s.TimesDown)
		number(r, "downtime", seconds(s.Downtime))
		r.text("check_status", s.Check.Status)
		if s.Check.Code != 0 {
			r.number("check_code", s.Check.Code)
		}
		number(r, "check_duration", s.Check.Duration.Milliseconds())
		if !strings.Contains(s.Check.Status, "OK") { // of a good one HAProxy tells nothing
			r.text("last_chk", clean(s.Check.Detail))
		}
		r.text("check_desc", s.Check.Description)
		r.number("check_rise", s.Check.Rise)
		r.number("check_fall", s.Check.Fall)
		r.number("check_health", s.Check.Points)
	}
	number(r, "req_tot", s.Count(Sessions))
	r.numbers("srv_icur,idle_conn_cur,safe_conn_cur,used_conn_cur,need_conn_est", 0, 0, 0, uint64(max(s.Current, 0)), uint64(s.Peak))
	return r
}

// clean leaves out what would break a line.
func clean(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, s)
}

// rows are the lines of the table in HAProxy's order: a proxy's frontend, its servers, its backend.
func (r *Report) rows() []*row {
	var all []*row
	for i := range r.Frontends {
		all = append(all, r.Frontends[i].row())
	}
	for i := range r.Backends {
		b := &r.Backends[i]
		for j := range b.Servers {
			all = append(all, b.Servers[j].row(b, r.Now))
		}
		all = append(all, b.row(r.Now))
	}
	return all
}

// CSV is the table as HAProxy writes it: a line of names, and each line ends with a comma.
func (r *Report) CSV() []byte {
	var out bytes.Buffer
	out.WriteString("# " + columns + ",\n")
	for _, row := range r.rows() {
		for _, cell := range row.cells {
			if strings.ContainsAny(cell, ",\"") {
				cell = `"` + strings.ReplaceAll(cell, `"`, `""`) + `"`
			}
			out.WriteString(cell)
			out.WriteByte(',')
		}
		out.WriteByte('\n')
	}
	return out.Bytes()
}

// JSON is the table as HAProxy writes it under ;json: an array for each line, with an object for each cell.
func (r *Report) JSON() []byte {
	type field struct {
		Pos  int    `json:"pos"`
		Name string `json:"name"`
	}
	type value struct {
		Type  string `json:"type"`
		Value any    `json:"value"`
	}
	type cell struct {
		ObjType string `json:"objType"`
		ProxyID int    `json:"proxyId"`
		ID      int    `json:"id"`
		Field   field  `json:"field"`
		Process int    `json:"processNum"`
		Value   value  `json:"value"`
	}
	names := Columns()
	table := [][]cell{}
	for _, row := range r.rows() {
		var line []cell
		for i, text := range row.cells {
			if text == "" || names[i] == "-" {
				continue
			}
			c := cell{[...]string{"Frontend", "Backend", "Server"}[row.kind], row.id, row.server, field{i, names[i]}, 1, value{"str", text}}
			if !row.isText[i] {
				n, _ := strconv.ParseInt(text, 10, 64) // number wrote it
				c.Value = value{"u64", n}
				if n < 0 {
					c.Value.Type = "s32"
				}
			}
			line = append(line, c)
		}
		table = append(table, line)
	}
	out, _ := json.Marshal(table) // strings and numbers only
	return append(out, '\n')
}
