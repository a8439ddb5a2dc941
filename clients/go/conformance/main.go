// conformance ADDRESS FULL calls a frontend in every way and prints what came, as JSON: tests/clients/ compare it with
// the Python client's. ADDRESS is a frontend's host:port, FULL that of a frontend which takes no more requests.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"

	"quire"
	quirev1 "quire/v1"
)

const (
	prompt = "def mean(values):\n"
	short  = int32(24)
	long   = int32(1200)
)

type object = map[string]interface{}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: conformance ADDRESS FULL")
		os.Exit(2)
	}
	found, err := converse(os.Args[1], os.Args[2])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(found)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func greedy(maxTokens int32) *quirev1.GenerateRequest {
	zero := float32(0)
	return &quirev1.GenerateRequest{
		Input:    &quirev1.GenerateRequest_Text{Text: prompt},
		Sampling: &quirev1.SamplingParams{Temperature: &zero, MaxTokens: &maxTokens, IgnoreEos: true},
	}
}

func seeded() *quirev1.GenerateRequest {
	request, seed := greedy(short), uint64(math.MaxUint64)
	request.Sampling.Temperature, request.Sampling.Seed = nil, &seed
	return request
}

func converse(address, full string) (object, error) {
	client, err := quire.Connect(address)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	crowded, err := quire.Connect(full)
	if err != nil {
		return nil, err
	}
	defer crowded.Close()

	ctx, found := context.Background(), object{}
	whole, err := client.Generate(ctx, greedy(short))
	if err != nil {
		return nil, err
	}
	found["unary"] = object{
		"text": whole.GetText(), "token_ids": whole.GetTokenIds(), "reason": whole.GetFinish().GetReason().String(),
		"prompt_tokens": whole.GetFinish().GetUsage().GetPromptTokens(),
	}
	streamed := &answer{}
	if err := client.GenerateStream(ctx, seeded(), streamed.add); err != nil {
		return nil, err
	}
	found["stream"] = streamed.object()
	if found["many"], found["cancelled_of_many"], err = many(ctx, client); err != nil {
		return nil, err
	}
	found["cancelled"] = cancelled(client)
	topP := float32(2)
	refused := greedy(short)
	refused.Sampling.TopP = &topP
	_, err = client.Generate(ctx, refused)
	found["refused"] = failure(err)
	_, err = crowded.Generate(ctx, greedy(short))
	found["overloaded"] = failure(err)
	found["tokens"], err = client.Tokenize(ctx, prompt)
	return found, err
}

// many returns two answers, and the error of a third request that is cancelled at its first piece.
func many(ctx context.Context, client *quire.Client) ([]object, object, error) {
	call, err := client.Many(ctx)
	if err != nil {
		return nil, nil, err
	}
	answers, ended := map[uint64]*answer{}, object{}
	first, second, third := call.Start(greedy(short)), call.Start(seeded()), call.Start(greedy(long))
	for _, number := range []uint64{first, second, third} {
		answers[number] = &answer{}
	}
	onPiece := func(number uint64, piece *quirev1.GenerateStreamResponse) {
		_ = answers[number].add(piece)
		if number == third && answers[third].numPieces == 1 {
			call.Cancel(third)
			call.Close()
		}
	}
	for err == nil {
		err = call.Read(onPiece, func(_ uint64, failed *quire.Error) { ended = failure(failed) })
	}
	var failed *quire.Error
	if errors.As(err, &failed) {
		return nil, nil, failed
	}
	return []object{answers[first].object(), answers[second].object()}, ended, nil
}

// cancelled is the error of a stream whose context ends at its first piece.
func cancelled(client *quire.Client) object {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	return failure(client.GenerateStream(ctx, greedy(long), func(*quirev1.GenerateStreamResponse) error {
		cancel()
		return nil
	}))
}

func failure(err error) object {
	var failed *quire.Error
	if !errors.As(err, &failed) {
		panic(fmt.Sprintf("it should have failed, got %v", err))
	}
	described := object{"code": int(failed.Code), "message": failed.Message, "retry_ms": nil}
	if failed.RetryAfter != nil {
		described["retry_ms"] = failed.RetryAfter.Milliseconds()
	}
	return described
}

// answer is what the pieces of one request add up to.
type answer struct {
	text      string
	tokenIds  []uint32
	reason    string
	numPieces int
}

func (sum *answer) add(piece *quirev1.GenerateStreamResponse) error {
	sum.text += piece.GetText()
	sum.tokenIds = append(sum.tokenIds, piece.GetTokenIds()...)
	if piece.GetFinish() != nil {
		sum.reason = piece.GetFinish().GetReason().String()
	}
	sum.numPieces++
	return nil
}

func (sum *answer) object() object {
	return object{"text": sum.text, "token_ids": sum.tokenIds, "reason": sum.reason, "num_pieces": sum.numPieces}
}
