// Package quire is a client of quire.v1.InferenceService.
package quire

import (
	"context"
	"io"

	"google.golang.org/grpc"

	quirev1 "quire/v1"
)

const maxMessageBytes = 64 * 1024 * 1024

// Client is one connection to a frontend. Goroutines may share it. A context cancels its call and bounds its time.
// Every method returns an *Error if the call fails.
type Client struct {
	connection *grpc.ClientConn
	stub       quirev1.InferenceServiceClient
}

// Connect prepares a connection to a frontend's "host:port"; it is made with the first call.
func Connect(address string) (*Client, error) {
	limit := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes))
	connection, err := grpc.Dial(address, grpc.WithInsecure(), limit)
	if err != nil {
		return nil, err
	}
	return &Client{connection, quirev1.NewInferenceServiceClient(connection)}, nil
}

// Close ends every call and the connection.
func (client *Client) Close() error {
	return client.connection.Close()
}

// Generate returns the whole answer.
func (client *Client) Generate(ctx context.Context, request *quirev1.GenerateRequest) (*quirev1.GenerateResponse, error) {
	response, err := client.stub.Generate(ctx, request)
	return response, ofCall(err)
}

// GenerateStream calls onPiece with each piece of the answer. An error of onPiece cancels the request and is returned.
func (client *Client) GenerateStream(
	ctx context.Context, request *quirev1.GenerateRequest, onPiece func(*quirev1.GenerateStreamResponse) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.stub.GenerateStream(ctx, request)
	if err != nil {
		return ofCall(err)
	}
	for {
		piece, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return ofCall(err)
		}
		if err := onPiece(piece); err != nil {
			return err
		}
	}
}

// Many opens one call for many requests. Cancelling its context cancels them all.
func (client *Client) Many(ctx context.Context) (*Many, error) {
	call, err := client.stub.GenerateMany(ctx)
	if err != nil {
		return nil, ofCall(err)
	}
	return &Many{call: call}, nil
}

// Tokenize returns the token ids of a text.
func (client *Client) Tokenize(ctx context.Context, text string) ([]uint32, error) {
	response, err := client.stub.Tokenize(ctx, &quirev1.TokenizeRequest{Text: text})
	return response.GetTokenIds(), ofCall(err)
}

// Detokenize returns the text of token ids.
func (client *Client) Detokenize(ctx context.Context, tokenIds []uint32) (string, error) {
	response, err := client.stub.Detokenize(ctx, &quirev1.DetokenizeRequest{TokenIds: tokenIds})
	return response.GetText(), ofCall(err)
}

// Model describes the model that is served.
func (client *Client) Model(ctx context.Context) (*quirev1.GetModelResponse, error) {
	response, err := client.stub.GetModel(ctx, &quirev1.GetModelRequest{})
	return response, ofCall(err)
}

// Server describes the server.
func (client *Client) Server(ctx context.Context) (*quirev1.GetServerResponse, error) {
	response, err := client.stub.GetServer(ctx, &quirev1.GetServerRequest{})
	return response, ofCall(err)
}
