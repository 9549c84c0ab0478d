// Answers what Prometheus makes of expressions: reads one JSON object a line, writes one a line.
//
//	{"expr": "up == 0"}                                            is it one that Prometheus takes?
//	{"expr": "up == 0", "load": "load 1m\n  up 0x10", "at": 600}   and what does it find at that second?
//	{..., "for": "5m", "annotations": {"summary": "..."}}          as an alert, looked at every minute up to then: when?
//	{"relabel": "- {action: keep, ...}", "labels": {"a": "b"}}     what becomes of a target with these labels?
//
// The answer is {"error": "..."} or {"metrics": [...], "found": [{"instance": "a"}, ...]}: the names of the metrics
// in it, and the labels of each series that it finds, or of the target if it is kept; of an alert {"firing": [...],
// "said": [...]}: the seconds at which it fires, and the annotations of all that fires at the last of these.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"gopkg.in/yaml.v2"
)

type question struct {
	Expr    string            `json:"expr"`
	Load    string            `json:"load"`
	At      int64             `json:"at"`
	Relabel string            `json:"relabel"`
	Labels  map[string]string `json:"labels"`
	For     string            `json:"for"`
	Says    map[string]string `json:"annotations"`
}

type answer struct {
	Error   string              `json:"error"`
	Metrics []string            `json:"metrics"`
	Found   []map[string]string `json:"found"`
	Firing  []int64             `json:"firing"`
	Said    []map[string]string `json:"said"`
}

// failure is what the loader of series expects of a test: it panics, and the answer has the text.
type failure struct{}

func (failure) Errorf(format string, arguments ...any) { panic(fmt.Sprintf(format, arguments...)) }
func (failure) FailNow()                               { panic("the series cannot be loaded") }

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		out, err := json.Marshal(answered(lines.Bytes()))
		if err != nil {
			panic(err)
		}
		fmt.Println(string(out))
	}
}

func answered(line []byte) (out answer) {
	defer func() {
		if why := recover(); why != nil {
			out = answer{Error: fmt.Sprint(why)}
		}
	}()
	var asked question
	if err := json.Unmarshal(line, &asked); err != nil {
		return answer{Error: err.Error()}
	}
	if asked.Relabel != "" {
		return relabelled(asked)
	}
	expr, err := parser.ParseExpr(asked.Expr)
	if err != nil {
		return answer{Error: err.Error()}
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok {
			out.Metrics = append(out.Metrics, selector.Name)
		}
		return nil
	})
	if asked.Load == "" {
		return out
	}
	storage := promqltest.LoadedStorage(failure{}, asked.Load)
	defer storage.Close()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1_000_000, Timeout: time.Minute})
	if asked.For != "" {
		return alerted(asked, expr, engine, storage)
	}
	query, err := engine.NewInstantQuery(context.Background(), storage, nil, asked.Expr, time.Unix(asked.At, 0))
	if err != nil {
		return answer{Error: err.Error()}
	}
	defer query.Close()
	result := query.Exec(context.Background())
	if result.Err != nil {
		return answer{Error: result.Err.Error()}
	}
	vector, err := result.Vector()
	if err != nil {
		return answer{Error: err.Error()}
	}
	for _, sample := range vector {
		out.Found = append(out.Found, sample.Metric.Map())
	}
	return out
}

// alerted looks at an alert as Prometheus does, at each minute.
func alerted(asked question, expr parser.Expr, engine promql.QueryEngine, series storage.Queryable) (out answer) {
	hold, err := model.ParseDuration(asked.For)
	if err != nil {
		return answer{Error: err.Error()}
	}
	none, silent := labels.EmptyLabels(), slog.New(slog.DiscardHandler)
	rule := rules.NewAlertingRule(
		"asked", expr, time.Duration(hold), 0, none, labels.FromMap(asked.Says), none, "", true, silent,
	)
	query := rules.EngineQueryFunc(engine, series)
	for second := int64(0); second <= asked.At; second += 60 {
		if _, err := rule.Eval(context.Background(), 0, time.Unix(second, 0), query, &url.URL{}, 0); err != nil {
			return answer{Error: err.Error()}
		}
		if rule.State() != rules.StateFiring {
			continue
		}
		out.Firing, out.Said = append(out.Firing, second), nil
		for _, each := range rule.ActiveAlerts() {
			if each.State == rules.StateFiring {
				out.Said = append(out.Said, each.Annotations.Map())
			}
		}
	}
	return out
}

func relabelled(asked question) (out answer) {
	var rules []*relabel.Config
	if err := yaml.UnmarshalStrict([]byte(asked.Relabel), &rules); err != nil {
		return answer{Error: err.Error()}
	}
	if target, kept := relabel.Process(labels.FromMap(asked.Labels), rules...); kept {
		out.Found = append(out.Found, target.Map())
	}
	return out
}
