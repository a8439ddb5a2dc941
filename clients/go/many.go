package quire

import (
	"io"

	"google.golang.org/protobuf/types/known/emptypb"

	quirev1 "quire/v1"
)

// Many is the requests of one GenerateMany call. What a step brings to all of them is one message. One goroutine reads
// while another starts and cancels.
type Many struct {
	call   quirev1.InferenceService_GenerateManyClient
	number uint64
}

// Start sends a request and returns its number. If the call has failed, Read says why.
func (many *Many) Start(request *quirev1.GenerateRequest) uint64 {
	many.number++
	many.send(many.number, &quirev1.GenerateManyRequest{Action: &quirev1.GenerateManyRequest_Generate{Generate: request}})
	return many.number
}

// Cancel ends a request with an error of CANCELLED; no effect if it has ended.
func (many *Many) Cancel(number uint64) {
	many.send(number, &quirev1.GenerateManyRequest{Action: &quirev1.GenerateManyRequest_Cancel{Cancel: &emptypb.Empty{}}})
}

// Close says that no more requests come; those that run go on.
func (many *Many) Close() {
	_ = many.call.CloseSend() // Read says how the call ends
}

// Read takes one message and hands out its parts: a piece of a request's answer, or the error that ended the request.
// It returns io.EOF when the call is over.
func (many *Many) Read(onPiece func(uint64, *quirev1.GenerateStreamResponse), onError func(uint64, *Error)) error {
	message, err := many.call.Recv()
	if err == io.EOF {
		return err
	}
	if err != nil {
		return ofCall(err)
	}
	for _, part := range message.GetParts() {
		if failure := part.GetFailure(); failure != nil {
			onError(part.GetNumber(), ofFailure(failure))
		} else {
			onPiece(part.GetNumber(), part.GetResponse())
		}
	}
	return nil
}

func (many *Many) send(number uint64, message *quirev1.GenerateManyRequest) {
	message.Number = number
	_ = many.call.Send(message) // Read says how the call ends
}
